"""Shards of pairs: what is read is what was written, by any reader of WebDataset; damage is told."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from model.preferences.pair_shards import open_pairs
from pipeline.errors import TwistError
from pipeline.shards import make_key
from tests.model.preferences.conftest import synthetic_pairs, write_pairs


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = synthetic_pairs(60, 24)
    write_pairs(str(tmp_path / "a"), written)
    read = open_pairs(str(tmp_path / "a"))
    for split in ("train", "validation"):
        expected = [pair for pair in written if pair.split == split]
        for ours, theirs in zip(read.pairs(split), expected, strict=True):
            assert (ours.pair_id, ours.facts) == (theirs.pair_id, theirs.facts)
            for one, other in zip(ours.parts, theirs.parts, strict=True):
                np.testing.assert_array_equal(one, other)
    assert [shard["num_pairs"] for shard in read.info["shards"]] == [25, 25, 10, 24]
    again = write_pairs(str(tmp_path / "b"), written)
    assert again.fingerprint == read.fingerprint
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_tar_is_in_the_layout_of_webdataset(tmp_path: Path) -> None:
    pair = synthetic_pairs(1, 1)[0]
    write_pairs(str(tmp_path), [pair])
    with tarfile.open(tmp_path / "train" / "train-000000.tar") as tar:
        names = tar.getnames()
        key = make_key(pair.pair_id)
        assert names == [f"{key}.{part}" for part in ("chosen.npy", "json", "prompt.npy", "rejected.npy")]
        content = tar.extractfile(names[0]).read()
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), pair.chosen)


def test_damage_and_absence_are_told(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="holds no preference pairs"):
        open_pairs(str(tmp_path))
    dataset = write_pairs(str(tmp_path))
    tar = tmp_path / "train" / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    with pytest.raises(TwistError, match=r"train-000001.tar is damaged \(it does not have the sha256"):
        list(dataset.pairs("train"))
    tar.unlink()
    with pytest.raises(TwistError, match="is missing; restore it"):
        list(dataset.pairs("train"))
    (tmp_path / "preferences.json").write_text("{")
    with pytest.raises(TwistError, match="is damaged"):
        open_pairs(str(tmp_path))
