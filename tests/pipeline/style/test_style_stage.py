"""Fitting a style model on a run, giving its segments codes, and packing these along."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.encoder.config import EncoderConfig
from model.style.config import StyleConfig, StyleTrainConfig
from model.style.model import load_style
from pipeline import stage
from pipeline.audio.read import read_clips, whole_wavs
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.files.checksums import sha256_of
from pipeline.inspection.describe import describe_stage
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify_stage
from pipeline.inspection.verify_shards import verify_shards
from pipeline.packing.config import PackConfig, SplitConfig
from pipeline.packing.pack import pack
from pipeline.packing.streams import Stream, codes_of_sample
from pipeline.runs import PITCH
from pipeline.segments.segment import open_segments, plan_of
from pipeline.sha256sums import SHA256SUMS
from pipeline.shards import Sample, open_dataset, read_shard
from pipeline.stage import Stage, StageCounts, Tally, fingerprint_of, read_facts
from pipeline.style.fit import fit_style
from pipeline.style.parts import part_uris, read_part, read_parts
from pipeline.style.stage import take_style
from pipeline.units.parts import read_parts as read_units
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently

MFCC = EncoderConfig(device="cpu")
PACK = PackConfig(split=SplitConfig(validation=0.2, test=0), units_per_shard=200)


@pytest.fixture(scope="module")
def style_model(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("style-model"))
    fit = fit_style(str(small_run), StyleTrainConfig(num_codes=5), MFCC, folder, silently)
    assert fit.num_codes == 5 and fit.num_seconds > 20 and fit.accuracy is None
    return folder


@pytest.fixture
def run(run_copy: Path, style_model: str, without_ray: None) -> Path:  # noqa: ARG001
    take_style(str(run_copy), StyleConfig(style_model, "cpu"), ClusterConfig(), silently)
    return run_copy


def test_the_same_audio_and_seed_give_the_same_model(small_run: Path, style_model: str, tmp_path: Path) -> None:
    fit_style(str(small_run), StyleTrainConfig(num_codes=5), MFCC, str(tmp_path), silently)
    assert load_style(str(tmp_path), "cpu").fingerprint == load_style(style_model, "cpu").fingerprint


def test_a_linear_layer_tells_labels_apart(small_run: Path, tmp_path: Path) -> None:
    config = StyleTrainConfig(method="linear", labels="speaker")
    fit = fit_style(str(small_run), config, MFCC, str(tmp_path / "model"), silently)
    settings = json.loads((tmp_path / "model/config.json").read_text())
    assert fit.num_codes == len(settings["labels"]) > 1
    ids = [id for table in read_units(str(small_run)) for id in table["recording_id"].to_pylist()]
    rows = [f"{id.rpartition('/')[2]},{'one' if number % 2 else 'two'}" for number, id in enumerate(sorted(set(ids)))]
    (tmp_path / "labels.csv").write_text("recording,label\n" + "\n".join(rows) + "\n")
    by_file = StyleTrainConfig(method="linear", labels=str(tmp_path / "labels.csv"), penalty=0.0)
    assert fit_style(str(small_run), by_file, MFCC, str(tmp_path / "other"), silently).num_codes == 2
    settings = json.loads((tmp_path / "other/config.json").read_text())
    assert settings["labels"] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("recording,mood\na,b\n", "no rows with columns"),
        ("recording,label\nelsewhere.wav,b\n", "name none of the recordings"),
    ],
)
def test_labels_that_are_of_no_use_are_told(small_run: Path, tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    config = StyleTrainConfig(method="linear", labels=str(tmp_path / "labels.csv"))
    with pytest.raises(TwistError, match=message):
        fit_style(str(small_run), config, MFCC, str(tmp_path / "model"), silently)


def test_kept_and_dropped_are_what_came_in(run: Path, style_model: str) -> None:
    facts = read_facts(str(run), "style")
    rows = [row for table in read_parts(str(run)) for row in table.to_pylist()]
    kept = [row for row in rows if row["style"] is not None]
    assert facts["counts"]["input"]["items"] == len(rows)
    assert facts["counts"]["kept"]["items"] == len(kept) < len(rows), "one file has vanished"
    assert sum(facts["code_counts"]) == sum(len(row["style"]) for row in kept)
    model = load_style(style_model, "cpu")
    assert facts["style_model"] == {"fingerprint": model.fingerprint, "rate_hz": 1.0, "num_codes": 5}
    of_units = [row for table in read_units(str(run)) for row in table.to_pylist()]
    assert [row["segment_id"] for row in rows] == [row["segment_id"] for row in of_units], "chunks are tokenization's"
    for row, units in zip(rows, of_units, strict=True):
        assert (row["style"] is None) == (units["units"] is None)
        assert (row["start_s"], row["end_s"]) == (units["start_s"], units["end_s"])
        if row["style"] is not None:
            assert len(row["style"]) == -(-units["num_frames"] // 25)


def test_codes_are_those_of_each_segment_alone(run: Path, style_model: str) -> None:
    model = load_style(style_model, "cpu")
    codes = {row["segment_id"]: row["style"] for table in read_parts(str(run)) for row in table.to_pylist()}
    with open_segments(str(run)) as segments:
        plan = plan_of(segments)
        chunk = plan[0]
    for id, wav in zip(chunk.ids, whole_wavs(read_clips(chunk.spans)), strict=True):
        if codes[id] is not None:
            assert isinstance(wav, np.ndarray)
            (alone,) = model.codes([torch.from_numpy(wav)])
            assert codes[id] == alone.tolist()


def test_a_stage_that_was_stopped_goes_on_to_the_same_bytes(run: Path, style_model: str) -> None:
    uris = part_uris(str(run))
    before = {uri: Path(uri).read_bytes() for uri in uris}
    (run / "style/DONE").unlink()
    for uri in uris[1:]:
        Path(uri).unlink()
    take_style(str(run), StyleConfig(style_model, "cpu"), ClusterConfig(), silently)
    assert {uri: Path(uri).read_bytes() for uri in part_uris(str(run))} == before


def test_another_model_is_refused(run: Path, small_run: Path, tmp_path: Path) -> None:
    fit_style(str(small_run), StyleTrainConfig(num_codes=3), MFCC, str(tmp_path / "other"), silently)
    with pytest.raises(TwistError, match="model"):
        take_style(str(run), StyleConfig(str(tmp_path / "other"), "cpu"), ClusterConfig(), silently)
    with pytest.raises(TwistError, match=r"style\.model names no model"):
        take_style(str(run), StyleConfig(), ClusterConfig(), silently)


def test_it_is_described_and_verified(run: Path) -> None:
    assert list(verify_stage(str(run), "style")) == []
    assert list(verify_stage(str(run), "style", checksums=False)) == []
    description = describe_stage(str(run), "style")
    assert 1 <= description["code_perplexity"] <= description["codes_used"] <= 5
    text = as_text({"kind": "style", "path": "style", **description})
    assert "5 codes, 1 a second" in text
    uri = part_uris(str(run))[0]
    part = read_part(uri)
    codes = [None if row is None else [7, *row[1:]] for row in part["style"].to_pylist()]
    changed = part.set_column(4, part.schema.field(4), [pa.array(codes, part.schema.field(4).type)])
    parquet.write(uri, changed.replace_schema_metadata(part.schema.metadata))
    violations = list(verify_stage(str(run), "style"))
    assert any("style has code 7, of a model of 5" in violation for violation in violations)
    assert any("its DONE does not fit" in violation for violation in violations)


def with_pitch(run: Path) -> None:
    """Stands in for the stage `pitch`: parts of codes that count up, 12.5 a second."""
    stage = Stage(str(run), PITCH, {"model": "stand-in"}, {"segments": fingerprint_of(str(run), "segments")})
    with stage.begin() as has_work:
        assert has_work
        for uri in part_uris(str(run)):
            part = read_part(uri)
            codes = []
            for row, seconds in zip(
                part.to_pylist(), (part["end_s"].to_numpy() - part["start_s"].to_numpy()), strict=True
            ):
                codes.append(None if row["style"] is None else [n // 2 % 6 for n in range(int(seconds * 12.5))])
            table = part.select(["segment_id", "drop_reason"]).append_column(
                "pitch", pa.array(codes, pa.list_(pa.uint16()))
            )
            parquet.write(str(run / "pitch" / Path(uri).name), table)
        tally = Tally(1, 1.0)
        model = {"fingerprint": "pitch-1", "rate_hz": 12.5, "num_codes": 6}
        stage.finish(StageCounts.of(tally, tally, []), [], "pitch-output", pitch_model=model)


def packed(run: Path, config: PackConfig = PACK) -> list[Sample]:
    shutil.rmtree(run / "shards", ignore_errors=True)
    pack(str(run), config, silently)
    dataset = open_dataset(str(run / "shards"))
    return [sample for shard in dataset.info["shards"] for sample in read_shard(dataset.uri, shard)]


@pytest.mark.parametrize("sample_s", [0.0, 20.0])
def test_samples_carry_the_codes_of_their_segments(run: Path, sample_s: float) -> None:
    without = {sample.key: sample for sample in packed(run, PackConfig(split=PACK.split, sample_s=sample_s))}
    with_pitch(run)
    samples = packed(run, PackConfig(split=PACK.split, sample_s=sample_s))
    dataset = open_dataset(str(run / "shards"))
    assert dataset.info["pitch"] == {"fingerprint": "pitch-1", "rate_hz": 12.5, "num_codes": 6}
    assert dataset.info["style"]["num_codes"] == 5
    assert list(verify_shards(dataset.uri)) == list(verify_shards(dataset.uri, checksums=False)) == []
    style = {row["segment_id"]: row["style"] for table in read_parts(str(run)) for row in table.to_pylist()}
    assert {sample.key for sample in samples} == without.keys(), "codes decide nothing about samples"
    for sample in samples:
        assert sample.pitch is not None and sample.style is not None
        assert sample.units.tolist() == without[sample.key].units.tolist()
        assert abs(len(sample.pitch) / 12.5 - sample.num_frames / 25) < 0.3
        if not sample.segments:
            assert sample.style.tolist() == style[sample.segment_id]
        else:
            assert sample.style[0] == style[sample.segments[0]][0]
            assert len(sample.style) == -(-sample.num_frames // 25)
    (totals,) = [total for total in dataset.info["streams"]["totals"] if total["split"] == "train"]
    of_train = [sample for sample in samples if sample.split == "train"]
    assert totals["num_samples"] == len(of_train)
    assert totals["num_pitch"] == sum(len(sample.pitch) for sample in of_train if sample.pitch is not None)


def test_a_segment_without_codes_stays_without_them(run: Path) -> None:
    with_pitch(run)
    samples = packed(run)
    uri = part_uris(str(run))[0]
    part = parquet.read(str(run / "pitch" / Path(uri).name))
    ids, of_segments = part["segment_id"].to_pylist(), part["pitch"].to_pylist()
    lost = next(id for id, codes in zip(ids, of_segments, strict=True) if codes)
    codes = [None if id == lost else row for id, row in zip(ids, of_segments, strict=True)]
    field = part.schema.field("pitch")
    changed = part.drop_columns(["pitch"]).append_column(field, pa.array(codes, field.type))
    path = run / "pitch" / Path(uri).name
    parquet.write(str(path), changed)
    with pytest.raises(TwistError, match=f"{path.name} is damaged: it is not as it was"):
        packed(run)
    sums = run / "pitch" / SHA256SUMS
    sums.write_text(re.sub(f"[0-9a-f]+  {path.name}", f"{sha256_of(str(path))}  {path.name}", sums.read_text()))
    stage._listed.cache_clear()  # as another process would read it
    again = packed(run)
    assert {sample.key for sample in again} == {sample.key for sample in samples}
    assert [sample.segment_id for sample in again if sample.pitch is None] == [lost]
    assert list(verify_shards(str(run / "shards"))) == []


def test_codes_on_the_clock_of_a_sample() -> None:
    stream = Stream("pitch", "", 12.5, 100, "f")
    one, two = np.arange(3, dtype=np.uint16), np.arange(10, 13, dtype=np.uint16)
    assert codes_of_sample([one], [6], 25.0, stream) is one
    # 7 frames are 0.28 s: codes at 0, 0.08, 0.16 and, past the third code, 0.24; then the second's, at 0.04 s and on.
    joined = codes_of_sample([one, two], [7, 6], 25.0, stream)
    assert joined is not None and joined.tolist() == [0, 1, 2, 2, 10, 11, 12]
    assert codes_of_sample([one, None], [7, 6], 25.0, stream) is None
    assert codes_of_sample([one, two], [7, 60], 25.0, stream) is None, "codes of other audio"


@pytest.mark.parametrize("name", ["pitch.npy", "style.npy"])
def test_damage_to_codes_is_found(run: Path, name: str) -> None:
    with_pitch(run)
    packed(run)
    dataset = open_dataset(str(run / "shards"))
    row = dataset.row(0)
    tar = run / "shards" / row["shard"]
    content = bytearray(tar.read_bytes())
    content[row[f"{name.partition('.')[0]}_offset"]] ^= 1
    tar.write_bytes(content)
    assert any("checksum" in violation for violation in verify_shards(dataset.uri))
