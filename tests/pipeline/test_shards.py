from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shards
from pipeline.files import parquet
from pipeline.records import SAMPLE_SCHEMA
from pipeline.shards import (
    UNCHECKED_SCHEMA,
    DatasetError,
    Sample,
    first_sample,
    make_key,
    open_dataset,
    read_sample,
    read_shard,
    write_index,
    write_shard,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE_ROW = {
    "key": "0",
    "shard": "train/train-000000.tar",
    "index": 0,
    "offset": 0,
    "units_offset": 640,
    "num_units": 5,
    "num_frames": 9,
    "duration_s": 1.0,
    "corpus": "corpus",
    "speaker": None,
    "split": "train",
    "segment_id": "corpus/a.wav#0",
    "units_crc32": 1,
    "sample_crc32": 2,
}
ODD_IDS = (
    'a b/it\'s "odd".é.wav#00000000-00001000',
    "corpus/x.y.z#1",
    "corpus/x-y-z#1",
    "../../etc/passwd#0",
    "...",
    "日本語/音声.flac#00000001-00000002",
    "日本語/音聲.flac#00000001-00000002",
    "__meta__/__x__",
    "-rf *;$(ls)`id`\n\t",
    "x" * 5000,
    "x" * 5001,
    "",
)


def sample(number: int, num_units: int, segment_id: str | None = None, split: str = "train") -> Sample:
    """A sample whose units say which one it is."""
    id = f"corpus/rec {number}.wav#{number:08d}" if segment_id is None else segment_id
    generator = np.random.default_rng(number)
    units = (np.arange(num_units) * 7 + number).astype(np.uint16)
    return Sample(
        key=make_key(id),
        segment_id=id,
        corpus="corpus",
        speaker=None if number % 3 == 0 else f"corpus/é {number % 3}",
        language="en" if number % 2 else None,
        split=split,
        start_s=number + 0.1,
        end_s=number + 0.1 + num_units / 10,
        units=units,
        durations=generator.integers(1, 9, num_units).astype(np.uint16),
        uri=f"rec é {number}.wav",
        channel=number % 2 or None,
        sample_rate_hz=16_000,
    )


def many_samples() -> list[Sample]:
    """Sizes around every boundary: a tar block is 512 bytes, a record 10,240, an npy header 128."""
    sizes = [1, 2, 191, 192, 193, 255, 256, 447, 448, 449, 4_900, 5_056, 5_057, 5_120, 5_121, 20_000, 65_536, 100_001]
    return [sample(number, size) for number, size in enumerate([*sizes, *range(1, 300)])]


def write(folder: Path, shards: dict[str, Sequence[Sample]]) -> list[dict[str, Any]]:
    """Writes shards and their index; returns the manifest's rows."""
    descriptions, rows = [], []
    for name, samples in shards.items():
        description, shard_rows = write_shard(str(folder), name, samples)
        descriptions.append(description)
        rows += shard_rows
    info = {"num_units": 500, "codebook": {"fingerprint": "book"}, "shards": descriptions}
    write_index(str(folder), info, rows)
    return rows


# Reads shards as a trainer would that imports nothing of ours.
READER = """
import io, json, sys, numpy, webdataset
for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode():
    units, durations = sample["units.npy"], sample["durations.npy"]
    assert units.dtype == durations.dtype == numpy.uint16
    print(json.dumps([sample["__key__"], units.tolist(), durations.tolist(), sample["json"]]))
assert not any(name.split(".")[0] in ("pipeline", "model", "jobs") for name in sys.modules)
"""


def test_webdataset_alone_reads_every_sample(tmp_path: Path) -> None:
    samples = [*many_samples(), *(sample(1000 + number, 10, id) for number, id in enumerate(ODD_IDS))]
    write(tmp_path, {"train/train-000000.tar": samples[::2], "train/train-000001.tar": samples[1::2]})
    paths = sorted(str(path) for path in tmp_path.glob("train/*.tar"))
    done = subprocess.run([sys.executable, "-c", READER, *paths], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    read = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [*samples[::2], *samples[1::2]]
    assert [row[0] for row in read] == [one.key for one in expected], "samples are lost, doubled or in another order"
    for (key, units, durations, description), one in zip(read, expected, strict=True):
        assert units == one.units.tolist(), key
        assert durations == one.durations.tolist(), key
        assert description == {
            "segment_id": one.segment_id,
            "corpus": one.corpus,
            "speaker": one.speaker,
            "language": one.language,
            "start_s": one.start_s,
            "end_s": one.end_s,
            "num_frames": int(one.durations.sum()),
            "uri": one.uri,
            "channel": one.channel,
            "sample_rate_hz": one.sample_rate_hz,
        }


def test_offsets_address_exactly_the_sample_and_its_units(tmp_path: Path) -> None:
    samples = many_samples()
    rows = write(tmp_path, {"train/train-000000.tar": samples})
    content = (tmp_path / "train/train-000000.tar").read_bytes()
    assert len(content) > 10 * 10_240, "too small to see what a buffered stream does"
    for index, (row, one) in enumerate(zip(rows, samples, strict=True)):
        assert np.frombuffer(content, "<u2", row["num_units"], row["units_offset"]).tolist() == one.units.tolist()
        header = tarfile.TarInfo.frombuf(content[row["offset"] : row["offset"] + 512], "utf-8", "strict")
        assert header.name == f"{one.key}.durations.npy", "the offset is not that of the sample's first header"
        assert (row["index"], row["key"], row["segment_id"]) == (index, one.key, one.segment_id)
        assert (row["num_units"], row["num_frames"]) == (len(one.units), int(one.durations.sum()))


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 12_000), min_size=1, max_size=12))
def test_offsets_hold_for_any_sizes(sizes: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shards")
    samples = [sample(number, size) for number, size in enumerate(sizes)]
    _, rows = write_shard(str(folder), "a.tar", samples)
    content = (folder / "a.tar").read_bytes()
    for row, one in zip(rows, samples, strict=True):
        assert np.frombuffer(content, "<u2", row["num_units"], row["units_offset"]).tolist() == one.units.tolist()


def test_tarfile_and_numpy_alone_read_it_too(tmp_path: Path) -> None:
    samples = many_samples()[:30]
    write(tmp_path, {"a.tar": samples})
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
        assert names == [f"{one.key}.{kind}" for one in samples for kind in ("durations.npy", "json", "units.npy")]
        for one in samples:
            file = tar.extractfile(f"{one.key}.units.npy")
            assert file is not None
            assert np.load(io.BytesIO(file.read()), allow_pickle=False).tolist() == one.units.tolist()


def test_headers_carry_neither_clock_nor_user(tmp_path: Path) -> None:
    write(tmp_path, {"a.tar": many_samples()[:5]})
    with tarfile.open(tmp_path / "a.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uname, member.gname, member.uid, member.gid) == (0, "root", "root", 0, 0)
            assert member.isreg()
            assert member.mode == 0o444


def test_writing_again_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = {"train/train-000000.tar": many_samples()[:40], "test/test-000000.tar": [sample(900, 9, split="test")]}
    write(tmp_path / "one", shards)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write(tmp_path / "two", shards)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), f"{name} differs"


def test_a_shard_is_described_as_it_is(tmp_path: Path) -> None:
    samples = many_samples()[:40]
    description, rows = write_shard(str(tmp_path), "train/train-000000.tar", samples)
    content = (tmp_path / "train/train-000000.tar").read_bytes()
    assert description == {
        "path": "train/train-000000.tar",
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
        "num_samples": 40,
        "num_units": sum(row["num_units"] for row in rows),
        "num_frames": sum(row["num_frames"] for row in rows),
    }


def test_the_index_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = write(tmp_path, {"train/train-000000.tar": many_samples()[:7]})
    dataset = open_dataset(str(tmp_path))
    assert dataset.manifest.to_pylist() == rows
    assert dataset.codebook_size == 500
    assert dataset.info["format_version"] == 1


def test_the_fingerprint_is_of_every_tar_and_the_codebook(tmp_path: Path) -> None:
    write(tmp_path / "a", {"a.tar": [sample(1, 5)]})
    write(tmp_path / "b", {"a.tar": [sample(2, 5)]})
    write(tmp_path / "c", {"a.tar": [sample(1, 5)], "b.tar": [sample(2, 5)]})
    description, rows = write_shard(str(tmp_path / "d"), "a.tar", [sample(1, 5)])
    write_index(str(tmp_path / "d"), {"codebook": {"fingerprint": "other"}, "shards": [description]}, rows)
    assert len({open_dataset(str(tmp_path / name)).fingerprint for name in "abcd"}) == 4


@given(ids=st.lists(st.text(max_size=80), unique=True, max_size=20))
def test_keys_are_unique_and_plain(ids: list[str]) -> None:
    keys = [make_key(id) for id in ids]
    assert len(set(keys)) == len(ids), "two segments have one key"
    for key in keys:
        assert key.isascii()
        assert all(c.isalnum() or c in "-_" for c in key), key
        assert not key.startswith("-"), f"{key!r} would be an option to a shell command"
        assert len(key) <= 80


def test_keys_of_odd_ids_can_be_told_apart_by_webdataset() -> None:
    keys = [make_key(id) for id in ODD_IDS]
    assert len(set(keys)) == len(ODD_IDS)
    for key in keys:
        name = f"{key}.units.npy"
        assert webdataset.tariterators.base_plus_ext(name) == (key, "units.npy")
        assert len(name) < 100, "a longer name needs more than one header"


def test_a_key_tells_a_reader_which_segment_it_is() -> None:
    assert make_key("librispeech/84-121123-0001#00000000-00012500").startswith(
        "librispeech-84-121123-0001-00000000-00012500-"
    )


def test_shards_from_before_samples_named_their_recording_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = shards._description
    new = ("uri", "channel", "sample_rate_hz")
    monkeypatch.setattr(
        shards, "_description", lambda one: {name: value for name, value in told(one).items() if name not in new}
    )
    named = replace(sample(1, 5), uri="a.wav", channel=1, sample_rate_hz=8_000)
    description, _ = write_shard(str(tmp_path), "train/old.tar", [named])
    monkeypatch.undo()
    (old,) = read_shard(str(tmp_path), description)
    assert (old.uri, old.channel, old.sample_rate_hz) == (None, None, None)
    description, _ = write_shard(str(tmp_path), "train/new.tar", [named])
    (now,) = read_shard(str(tmp_path), description)
    assert (now.uri, now.channel, now.sample_rate_hz) == ("a.wav", 1, 8_000)


def test_a_sample_without_units_or_with_a_dot_in_its_key_is_a_bug() -> None:
    one = sample(0, 3)
    with pytest.raises(AssertionError, match="holds a dot"):
        Sample(**{**vars(one), "key": "a.b"})
    with pytest.raises(AssertionError, match="0 units"):
        Sample(**{**vars(one), "units": one.units[:0], "durations": one.durations[:0]})
    with pytest.raises(AssertionError, match="2 units"):
        Sample(**{**vars(one), "units": one.units[:2]})


def test_rows_are_those_of_the_whole_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 3)
    rows = [{**SAMPLE_ROW, "key": str(number), "duration_s": float(number)} for number in range(8)]
    write_index(str(tmp_path), {"codebook": {"fingerprint": "c"}, "shards": []}, rows)
    dataset = open_dataset(str(tmp_path))
    tables = list(dataset.rows(["key", "split"]))
    assert [len(table) for table in tables] == [3, 3, 2]
    assert pa.concat_tables(tables).equals(dataset.manifest.select(["key", "split"]))
    assert [dataset.row(number) for number in range(8)] == rows
    with pytest.raises(DatasetError, match="has no row 8"):
        dataset.row(8)


@pytest.mark.parametrize(("min_s", "key"), [(0.0, "1"), (3.0, "3"), (6.5, "7"), (99.0, "7")])
def test_the_first_long_enough_sample_of_a_split_is_drawn_else_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_s: float, key: str
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 3)
    rows = [
        {**SAMPLE_ROW, "key": str(number), "duration_s": float(number), "split": ("train", "validation")[number % 2]}
        for number in range(9)
    ]
    write_index(str(tmp_path), {"codebook": {"fingerprint": "c"}, "shards": []}, rows)
    assert first_sample(open_dataset(str(tmp_path)), "validation", min_s)["key"] == key
    with pytest.raises(DatasetError, match="have nothing in test; name another split"):
        first_sample(open_dataset(str(tmp_path)), "test", min_s)


def test_a_folder_without_shards_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no finished shards \(dataset.json is missing\); make them with `twist pack`"
    ):
        open_dataset(str(tmp_path))


def test_checksums_are_those_that_zlib_gives(tmp_path: Path) -> None:
    write(tmp_path, {"train/a.tar": many_samples()[:40]})
    content = (tmp_path / "train/a.tar").read_bytes()
    for row in open_dataset(str(tmp_path)).manifest.to_pylist():
        end = row["units_offset"] + 2 * row["num_units"]
        assert row["units_crc32"] == zlib.crc32(content[row["units_offset"] : end])
        assert row["sample_crc32"] == zlib.crc32(content[row["offset"] : end])


def test_any_flipped_bit_of_a_sample_is_found_when_it_is_read(tmp_path: Path) -> None:
    samples = [sample(number, 9) for number in range(3)]
    write(tmp_path, {"train/a.tar": samples})
    path = tmp_path / "train/a.tar"
    content = bytearray(path.read_bytes())
    row = open_dataset(str(tmp_path)).row(1)
    assert read_sample(str(tmp_path), row).units.tolist() == samples[1].units.tolist()
    bits = range(8 * row["offset"], 8 * (row["units_offset"] + 2 * row["num_units"]), 37)
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.tar has no whole sample at byte \d+ .*not those that were packed"):
            read_sample(str(tmp_path), row)
        content[bit // 8] ^= 1 << bit % 8


def test_any_flipped_bit_of_a_shard_is_found_when_it_is_read(tmp_path: Path) -> None:
    samples = [sample(number, 9) for number in range(3)]
    write(tmp_path, {"train/a.tar": samples})
    (description,) = open_dataset(str(tmp_path)).info["shards"]
    read = list(read_shard(str(tmp_path), description))
    assert [one.units.tolist() for one in read] == [one.units.tolist() for one in samples]
    path = tmp_path / "train/a.tar"
    content = bytearray(path.read_bytes())
    for bit in range(0, 8 * len(content), 101):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.tar does not have the checksum in dataset\.json"):
            next(read_shard(str(tmp_path), description))
        content[bit // 8] ^= 1 << bit % 8


def test_shards_from_before_samples_had_checksums_are_read(tmp_path: Path) -> None:
    rows = write(tmp_path, {"train/a.tar": [sample(1, 5)]})
    old = open_dataset(str(tmp_path)).manifest.select(UNCHECKED_SCHEMA.names).cast(UNCHECKED_SCHEMA)
    parquet.write(str(tmp_path / "manifest.parquet"), old)
    dataset = open_dataset(str(tmp_path))
    assert not dataset.has_checksums
    assert dataset.row(0) == {name: rows[0][name] for name in UNCHECKED_SCHEMA.names}
    assert read_sample(str(tmp_path), dataset.row(0)).units.tolist() == sample(1, 5).units.tolist()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'{"format_version": 2}', b"\xff\xfe"])
def test_a_damaged_description_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, {"a.tar": [sample(1, 5)]})
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"dataset\.json (is damaged|does not describe)"):
        open_dataset(str(tmp_path))


def test_a_missing_or_damaged_manifest_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.tar": [sample(1, 5)]})
    manifest = tmp_path / "manifest.parquet"
    content = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(DatasetError, match=r"manifest\.parquet is missing"):
        open_dataset(str(tmp_path))
    manifest.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"manifest\.parquet is not a whole Parquet file"):
        open_dataset(str(tmp_path))
    parquet.write(str(manifest), pa.table({name: [] for name in SAMPLE_SCHEMA.names}))
    with pytest.raises(DatasetError, match="other columns than a manifest"):
        open_dataset(str(tmp_path))
