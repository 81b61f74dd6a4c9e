"""Exports, each read back as the other project reads it, from the documented shape of its files alone."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest

from pipeline.errors import TwistError
from pipeline.export.export import EXPORT, WRITERS, Format, export_shards
from pipeline.files import storage
from pipeline.shards import Dataset, open_dataset, read_shard
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.shards import Sample

FORMATS = sorted(WRITERS)


@pytest.fixture(scope="module")
def dataset(small_run: Path) -> Dataset:
    return open_dataset(str(small_run / "shards"))


@pytest.fixture
def export(dataset: Dataset, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    export_shards(dataset, request.param, str(tmp_path / "out"), silently)
    return tmp_path / "out"


def samples_of(dataset: Dataset) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for shard in dataset.info["shards"]:
        found.setdefault(shard["path"].split("/")[0], []).extend(read_shard(dataset.uri, shard))
    return found


def frames_of(sample: Sample) -> list[int]:
    return [
        unit for unit, count in zip(sample.units.tolist(), sample.durations.tolist(), strict=True) for _ in range(count)
    ]


def lines_of(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as file:
        for line in file:
            assert line.endswith("\n")
            yield line.removesuffix("\n")


def test_every_format_has_a_writer():
    assert set(WRITERS) == set(get_args(Format))


@pytest.mark.parametrize("export", ["slamkit"], indirect=True)
def test_slamkit_reads_its_token_files(export, dataset):
    """A word-level vocabulary of <Un0>, <Un1>, ..., split behind each >."""
    vocabulary = {f"<Un{unit}>": unit + 2 for unit in range(dataset.codebook_size)}
    for split, samples in samples_of(dataset).items():
        rows = [json.loads(line) for line in lines_of(export / f"{split}.jsonl")]
        assert [row["file_name"] for row in rows] == [sample.key for sample in samples]
        for row, sample in zip(rows, samples, strict=True):
            assert set(row) == {"file_name", "audio_repr"}
            ids = [vocabulary[token] for token in re.findall("[^>]*>", row["audio_repr"])]
            assert ids == (sample.units + 2).tolist()


@pytest.mark.parametrize("export", ["slm_scaling"], indirect=True)
def test_slm_scaling_reads_its_shards(export, dataset):
    eos = dataset.codebook_size
    for split, samples in samples_of(dataset).items():
        folders = sorted(path.parent for path in (export / split).glob("*/meta.json"))
        read: list[list[int]] = []
        ids: list[str] = []
        for folder in folders:
            meta = json.loads((folder / "meta.json").read_text())
            assert meta["schema_version"] == 2
            told = meta["preprocessing"]
            assert (told["vocab_size"], told["eos_token"], told["pad_token"]) == (eos + 2, eos, eos + 1)
            for name, checksum in meta["checksums"].items():
                assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
            lengths = np.fromfile(folder / "audio.len", np.int64)
            codes = np.fromfile(folder / "audio.bin", np.int16)
            rows = [json.loads(line) for line in lines_of(folder / "samples.jsonl")]
            assert len(rows) == len(lengths) == meta["num_samples"]
            assert [row["audio_steps"] for row in rows] == lengths.tolist()
            assert int(lengths.sum()) == len(codes) == meta["num_audio_steps"]
            assert (folder / "skips.jsonl").read_bytes() == b"" and meta["num_skipped"] == 0
            ends = np.cumsum(lengths)
            read += [codes[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]
            ids += [row["id"] for row in rows]
        assert read == [[*sample.units.tolist(), eos] for sample in samples]
        assert ids == [sample.key for sample in samples]


@pytest.mark.parametrize("export", ["fairseq-km"], indirect=True)
def test_fairseq_reads_labels_and_table(export, dataset):
    symbols = [line.rsplit(" ", 1) for line in lines_of(export / "dict.km.txt")]
    assert symbols == [[str(unit), "1"] for unit in range(dataset.codebook_size)]
    known = {symbol for symbol, _ in symbols}
    for split, samples in samples_of(dataset).items():
        labels = [line.split() for line in lines_of(export / f"{split}.km")]
        assert {unit for line in labels for unit in line} <= known
        assert [[int(unit) for unit in line] for line in labels] == [frames_of(sample) for sample in samples]
        first, *rows = lines_of(export / f"{split}.tsv")
        assert "\t" not in first
        items = [row.split("\t") for row in rows]
        assert [name for name, _ in items] == [f"{sample.key}.wav" for sample in samples]
        for (_, num_samples), line in zip(items, labels, strict=True):
            # What fairseq warns of: labels and audio that differ by more than 0.1 s.
            assert abs(len(line) / dataset.info["frame_rate_hz"] - int(num_samples) / 16_000) < 0.1


@pytest.mark.parametrize("export", ["zerospeech"], indirect=True)
def test_zerospeech_reads_its_text_files(export, dataset):
    for split, samples in samples_of(dataset).items():
        rows = [line.strip().split() for line in lines_of(export / split / "quantized_outputs.txt")]
        assert [name for name, _ in rows] == [sample.key for sample in samples]
        assert [[int(unit) for unit in units.split(",")] for _, units in rows] == [frames_of(one) for one in samples]


@pytest.mark.parametrize("name", FORMATS)
def test_equal_shards_give_equal_bytes_on_disk_and_on_s3(dataset, name, tmp_path, s3_folder):
    export_shards(dataset, name, str(tmp_path / "one"), silently)
    export_shards(dataset, name, f"{s3_folder}/two", silently)
    names = storage.list_files(str(tmp_path / "one"))
    assert names == storage.list_files(f"{s3_folder}/two")
    for file in names:
        assert (tmp_path / "one" / file).read_bytes() == storage.read_bytes(f"{s3_folder}/two/{file}"), file


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_tells_what_it_is_and_is_not_overwritten(dataset, name, tmp_path):
    told = export_shards(dataset, name, str(tmp_path), silently)
    assert json.loads((tmp_path / EXPORT).read_text()) == told
    assert told["num_samples"] == {split: len(samples) for split, samples in samples_of(dataset).items()}
    assert told["codebook_fingerprint"] == dataset.info["codebook"]["fingerprint"]
    with pytest.raises(TwistError, match="holds an export already"):
        export_shards(dataset, name, str(tmp_path), silently)


def test_units_beyond_int16_are_refused_where_they_do_not_fit(dataset, tmp_path):
    large = Dataset(dataset.uri, {**dataset.info, "num_units": 40_000})
    with pytest.raises(TwistError, match="keeps units as int16"):
        export_shards(large, "slm_scaling", str(tmp_path), silently)
    assert not (tmp_path / EXPORT).exists()


def test_a_file_that_could_not_be_written_whole_is_not_there(tmp_path):
    with pytest.raises(RuntimeError, match="no more"), storage.open_write(str(tmp_path / "a" / "b")) as file:
        file.write(b"half")
        raise RuntimeError("no more")
    assert list((tmp_path / "a").iterdir()) == []
