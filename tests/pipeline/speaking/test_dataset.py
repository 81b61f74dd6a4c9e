"""Shards read one sample at a time: every sample, by index or id, and the audio that it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.errors import TwistError
from pipeline.packing.config import PackConfig, SplitConfig
from pipeline.shards import open_dataset as open_shards
from pipeline.speaking.dataset import open_dataset
from pipeline.speaking.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_row_of_the_manifest_is_a_sample_and_is_found_by_its_ids(small_run: Path) -> None:
    dataset = open_dataset(small_run)
    rows = open_shards(str(small_run / "shards")).manifest.to_pylist()
    samples = list(dataset)
    assert len(dataset) == len(samples) == len(rows) > 0
    assert {sample.split for sample in samples} == {"train", "validation", "test"}
    for row, sample in zip(rows, samples, strict=True):
        for name in ("key", "segment_id", "corpus", "speaker", "split", "num_frames"):
            assert getattr(sample, name) == row[name]
        for found in (dataset.find(row["key"]), dataset.find(row["segment_id"])):
            np.testing.assert_array_equal(found.units, sample.units)
            np.testing.assert_array_equal(found.durations, sample.durations)
            assert (found.key, found.start_s, found.end_s) == (sample.key, sample.start_s, sample.end_s)
    of_test = [sample.key for sample in dataset.samples("test")]
    assert of_test == [row["key"] for row in rows if row["split"] == "test"]


@pytest.mark.parametrize("sample_s", [0.0, 30.0])
def test_the_audio_of_a_sample_gives_its_units(make_run: Callable[..., Path], sample_s: float) -> None:
    split = SplitConfig(validation=0.2, test=0.2)
    run = make_run(packed=PackConfig(split=split, units_per_shard=600, min_shards=2, sample_s=sample_s))
    dataset, tokenizer = open_dataset(run), load_tokenizer(run)
    num_joined = 0
    for sample in dataset.samples("train"):
        wav, sample_rate_hz = dataset.audio_of(sample)
        assert len(wav) / sample_rate_hz == pytest.approx(sample.duration_s, abs=1e-3)
        num_joined += len(sample.segments) > 1
        if not sample.segments:
            units = tokenizer(wav, sample_rate_hz)
            np.testing.assert_array_equal(units.values, sample.units)
            np.testing.assert_array_equal(units.durations, sample.durations)
    assert (num_joined > 0) == (sample_s > 0)


def test_the_first_sample_that_is_long_enough_is_found(small_run: Path) -> None:
    dataset = open_dataset(small_run)
    of_train = list(dataset.samples("train"))
    long_enough = [sample for sample in of_train if sample.duration_s >= 4.0]
    assert dataset.first("train", 4.0).key == long_enough[0].key
    assert dataset.first("train", 1e9).duration_s == max(sample.duration_s for sample in of_train)
    with pytest.raises(TwistError, match="nothing in nowhere"):
        dataset.first("nowhere", 1.0)


def test_shards_know_their_run_only_where_they_lie_in_it(small_run: Path, tmp_path: Path) -> None:
    inside = open_dataset(small_run / "shards")
    sample = next(iter(inside))
    assert len(inside.audio_of(sample)[0])
    shutil.copytree(small_run / "shards", tmp_path / "elsewhere")
    alone = open_dataset(tmp_path / "elsewhere")
    assert alone.find(sample.key).segment_id == sample.segment_id
    with pytest.raises(TwistError, match="does not know its recordings"):
        alone.audio_of(sample)


def test_what_is_missing_or_damaged_is_named(run_copy: Path) -> None:
    dataset = open_dataset(run_copy)
    sample = next(iter(dataset))
    with pytest.raises(TwistError, match="has no sample nobody's"):
        dataset.find("nobody's")
    shard = run_copy / "shards" / json.loads((run_copy / "shards/dataset.json").read_text())["shards"][0]["path"]
    shard.write_bytes(shard.read_bytes()[:700])
    for read in (lambda: list(dataset), lambda: dataset.find(sample.key)):
        with pytest.raises(TwistError, match="restore it or pack again"):
            read()
    shard.unlink()
    for read in (lambda: list(dataset), lambda: dataset.find(sample.key)):
        with pytest.raises(TwistError, match="is missing"):
            read()
    with pytest.raises(TwistError, match="holds no finished shards"):
        open_dataset(run_copy / "units")
