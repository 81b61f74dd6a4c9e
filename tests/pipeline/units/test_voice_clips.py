"""The clips of a run that a voice is trained on: with the codes and speakers that it takes, and no others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.pitch.checkpoint import fingerprint_of, save_pitch_model
from model.vocoder.batches import CodeFacts, VocoderBatches, validation_clips
from model.vocoder.config import VocoderConfig
from model.vocoder.mel_config import MelConfig
from model.vocoder.train_config import VocoderTrainConfig
from pipeline.errors import TwistError
from pipeline.units.labelled_clips import read_clips
from pipeline.units.voice_clips import read_voice_clips
from tests.model.coded_melodies import pitch_model_of

if TYPE_CHECKING:
    from pathlib import Path

# The run's units are 20, of 640 samples.
PLAIN = VocoderConfig(num_embeddings=20, embedding_dim=8, model_in_dim=8, dur_predictor_params={"encoder_embed_dim": 8})
SPOKEN = dataclasses.replace(
    PLAIN, num_f0_tokens=9, num_style_tokens=5, multispkr="from the run", num_speakers=20, model_in_dim=32
)
RATES_HZ = {"pitch": 12.5, "style": 1.0}


def means_hz(segment_ids: list[str]) -> list[float | None]:
    """Mean F0 of segments, by their names; of some nothing is voiced."""
    numbers = [int(hashlib.sha256(segment_id.encode()).hexdigest()[:4], 16) for segment_id in segment_ids]
    return [None if number % 5 == 0 else 100.0 + number % 100 for number in numbers]


def write_codes(run: Path, name: str, num_codes: int, without: str | None = None) -> dict[str, list[int] | None]:
    """What the stages of pitch and style leave: a part for each of the units', codes by segment."""
    folder = run / name
    folder.mkdir()
    generator = np.random.default_rng(num_codes)
    codes: dict[str, list[int] | None] = {}
    for path in sorted((run / "units").glob("part-*.parquet")):
        ids = pq.read_table(path)["segment_id"].to_pylist()
        durations_s = pq.read_table(path)["end_s"].to_numpy() - pq.read_table(path)["start_s"].to_numpy()
        of_part: list[list[int] | None] = [
            generator.integers(num_codes, size=max(1, int(duration_s * RATES_HZ[name]))).tolist()
            for duration_s in durations_s
        ]
        of_part = [None if segment_id == without else each for segment_id, each in zip(ids, of_part, strict=True)]
        # In another order than the units.
        rows = {"segment_id": ids[::-1], name: pa.array(of_part[::-1], pa.list_(pa.uint16()))}
        if name == "pitch":
            rows["f0_mean_hz"] = pa.array(means_hz(ids)[::-1], pa.float32())
        pq.write_table(pa.table(rows), folder / path.name)
        codes |= dict(zip(ids, of_part, strict=True))
    model = {"rate_hz": RATES_HZ[name], "num_codes": num_codes, "fingerprint": f"a model of {name}"}
    (folder / "stage.json").write_text(json.dumps({"fingerprint": "x", f"{name}_model": model}))
    (folder / "DONE").write_text("x")
    return codes


@pytest.fixture
def pitch_and_style(run_copy: Path) -> dict[str, dict[str, list[int] | None]]:
    return {"pitch": write_codes(run_copy, "pitch", 9), "style": write_codes(run_copy, "style", 5)}


def test_a_voice_of_units_alone_takes_all_clips(run_copy: Path) -> None:
    plain = read_clips(str(run_copy), 0.3)
    for ours, theirs in zip(read_voice_clips(str(run_copy), 0.3, PLAIN), plain, strict=True):
        assert ours.clips.table.equals(theirs.table) and ours.fingerprint == theirs.fingerprint
        assert (ours.codes, ours.speakers, ours.num_left_out) == ({}, (), 0)


def test_clips_have_their_own_codes_and_speakers(
    run_copy: Path, pitch_and_style: dict[str, dict[str, list[int] | None]]
) -> None:
    rows = [row for path in (run_copy / "manifest").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    speaker_of = {row["recording_id"]: row["speaker"] for row in rows if row.get("speaker")}
    plain = read_clips(str(run_copy), 0.3)
    train, validation = read_voice_clips(str(run_copy), 0.3, SPOKEN)
    assert train.codes["pitch"] == CodeFacts(12.5, 9, "a model of pitch")
    assert train.speakers == validation.speakers
    counts = Counter(speaker_of.get(name) for name in plain[0].table["recording_id"].to_pylist())
    del counts[None]
    assert sorted(train.speakers) == sorted(counts)
    assert [counts[name] for name in train.speakers] == sorted(counts.values(), reverse=True)
    for clips, all_clips in ((train, plain[0]), (validation, plain[1])):
        assert len(clips) + clips.num_left_out == len(all_clips)
        assert len(clips) > 0
        for index, row in enumerate(clips.clips.table.to_pylist()):
            told = clips.conditions(index)
            for name, codes in pitch_and_style.items():
                assert told.codes[name].tolist() == codes[row["segment_id"]]
            assert told.speaker is not None
            assert clips.speakers[told.speaker] == speaker_of[row["recording_id"]]
            assert len(clips[index][0]) == clips.num_samples[index]
    assert train.num_left_out > 0, "one recording's speaker is not known"


def test_batches_are_made_of_them(run_copy: Path, pitch_and_style: object) -> None:  # noqa: ARG001
    config = VocoderTrainConfig(model=SPOKEN, mels=(MelConfig(),), batch_size=4, crop_frames=14)
    train, validation = read_voice_clips(str(run_copy), 0.3, SPOKEN)
    batch = VocoderBatches(train, config)[0]
    assert batch.conditions["pitch_codes"].shape == batch.conditions["style_codes"].shape == (4, 14)
    for clip in validation_clips(validation, config):
        assert clip.conditions["pitch_codes"].shape == clip.frames.shape


def test_segments_without_codes_are_left_out(run_copy: Path) -> None:
    model = dataclasses.replace(PLAIN, num_f0_tokens=9, model_in_dim=16)
    segment_id = read_clips(str(run_copy), 0.3)[0].table["segment_id"][0].as_py()
    write_codes(run_copy, "pitch", 9, without=segment_id)
    train, _ = read_voice_clips(str(run_copy), 0.3, model)
    assert train.num_left_out == 1
    assert segment_id not in train.clips.table["segment_id"].to_pylist()


def test_a_source_has_the_mean_f0_of_each_clip_and_each_speaker(run_copy: Path, tmp_path: Path) -> None:
    write_codes(run_copy, "pitch", 9)
    pitch = pitch_model_of([(10.0 * number, number > 0) for number in range(9)], num_halvings=4)
    (tmp_path / "pitch").mkdir()
    save_pitch_model(pitch, tmp_path / "pitch")
    facts = json.loads((run_copy / "pitch" / "stage.json").read_text())
    facts["pitch_model"]["fingerprint"] = f"{fingerprint_of(pitch)}/nccf2"
    (run_copy / "pitch" / "stage.json").write_text(json.dumps(facts))
    model = dataclasses.replace(SPOKEN, num_style_tokens=None, model_in_dim=24, source_harmonics=4)
    train, validation = read_voice_clips(str(run_copy), 0.3, model, str(tmp_path / "pitch"))
    expected: dict[int, list[tuple[float, int]]] = {}
    for clips in (train, validation):
        for index, segment_id in enumerate(clips.clips.table["segment_id"].to_pylist()):
            told = clips.conditions(index)
            assert told.f0_mean_hz == means_hz([segment_id])[0]
            if clips is train and told.f0_mean_hz is not None:
                assert told.speaker is not None
                expected.setdefault(told.speaker, []).append((told.f0_mean_hz, int(clips.num_samples[index])))
    assert train.melody is not None and train.melody is validation.melody and len(train.melody.means_hz) == 20
    for speaker, pairs in expected.items():
        mean_hz = sum(hertz * samples for hertz, samples in pairs) / sum(samples for _, samples in pairs)
        assert train.melody.means_hz[speaker] == pytest.approx(mean_hz)
    config = VocoderTrainConfig(model=model, mels=(MelConfig(),), batch_size=4, crop_frames=14)
    batch = VocoderBatches(train, config)[0]
    assert batch.conditions["f0_hz"].shape == (4, 14, 8)
    is_voiced = batch.conditions["pitch_codes"] > 0
    assert torch.equal((batch.conditions["f0_hz"] > 0).all(dim=2), is_voiced)

    with pytest.raises(TwistError, match=r"which says F0: give pitch\.model"):
        read_voice_clips(str(run_copy), 0.3, model)
    with pytest.raises(TwistError, match="codes of another pitch tokenizer"):
        read_voice_clips(str(run_copy), 0.3, model, "pitch-tiny")


def test_other_codes_are_other_clips(run_copy: Path, pitch_and_style: object) -> None:  # noqa: ARG001
    before = read_voice_clips(str(run_copy), 0.3, SPOKEN)[0].fingerprint
    assert read_voice_clips(str(run_copy), 0.3, SPOKEN)[0].fingerprint == before
    for path in (run_copy / "pitch").glob("part-*.parquet"):
        table = pq.read_table(path)
        changed = [[(code + 1) % 9 for code in codes] for codes in table["pitch"].to_pylist()]
        pq.write_table(table.set_column(1, "pitch", pa.array(changed, pa.list_(pa.uint16()))), path)
    assert read_voice_clips(str(run_copy), 0.3, SPOKEN)[0].fingerprint != before


def test_what_a_run_lacks_is_told(run_copy: Path) -> None:
    with pytest.raises(TwistError, match="has no codes of pitch"):
        read_voice_clips(str(run_copy), 0.3, SPOKEN)
    nobody = dataclasses.replace(PLAIN, multispkr="_", model_in_dim=16)
    for path in (run_copy / "manifest").glob("*.parquet"):
        table = pq.read_table(path)
        if "speaker" in table.column_names:
            place = table.column_names.index("speaker")
            pq.write_table(table.set_column(place, "speaker", pa.nulls(len(table), pa.string())), path)
    with pytest.raises(TwistError, match="knows no speaker"):
        read_voice_clips(str(run_copy), 0.3, nobody)
