"""The pitch stage: kept + dropped = input, resumed = uninterrupted, chunks change nothing, and it is inspected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.pitch.checkpoint import save_pitch_model
from model.pitch.model_config import PitchModelConfig
from model.pitch.tokenizer import load_pitch_tokenizer
from model.pitch.vqvae import PitchVQVAE
from pipeline.audio.read import AudioError, Clip, read_clips
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.inspection.describe import describe
from pipeline.inspection.status import status
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify
from pipeline.pitch.config import PitchConfig
from pipeline.pitch.parts import digest_of_part, part_uris, read_part
from pipeline.pitch.pitch import FindPitch, _all_dropped, tokenize_pitch
from pipeline.records import PITCH_SCHEMA
from pipeline.segments.segment import open_segments, plan_of, read_segments
from pipeline.work.cluster import ClusterConfig
from pipeline.work.plan import WorkPlan
from tests.pipeline.units.test_tokenize import clips_of, unit_of, wav_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tokenizer of random weights."""
    folder = tmp_path_factory.mktemp("pitch")
    torch.manual_seed(0)
    vqvae = PitchVQVAE(PitchModelConfig())
    torch.nn.init.normal_(vqvae.codebook, std=0.1)
    save_pitch_model(vqvae, folder)
    return str(folder)


@pytest.fixture(scope="module")
def process(model: str) -> FindPitch:
    return FindPitch(model)


def run_stage(run: Path, model: str, *, retry_dropped: bool = False) -> None:
    tokenize_pitch(str(run), PitchConfig(model), ClusterConfig(), lambda *_: None, retry_dropped=retry_dropped)


def test_a_segments_pitch_does_not_depend_on_its_chunk(process: FindPitch) -> None:
    lengths = [20_000, 40_000, 16_000]
    chunk = unit_of(lengths)
    wavs = [wav_of(length, seed) for seed, length in enumerate(lengths)]
    together = process(chunk, clips_of(wavs)).to_pylist()
    for number, wav in enumerate(wavs):
        alone = type(chunk)("000009", (chunk.ids[number],), (chunk.spans[number],))
        assert process(alone, clips_of([wav])).to_pylist() == [together[number]]
    assert [len(row["pitch"]) for row in together] == [length // 1280 for length in lengths]


def test_what_cannot_be_used_becomes_a_row_with_its_reason(process: FindPitch) -> None:
    chunk = unit_of([20_000, 20_000, 1279, 16_000])
    part = process(
        chunk, clips_of([AudioError("missing", "no file"), wav_of(20_000), wav_of(1279), np.zeros(16_000, "f4")])
    )
    assert part.schema.equals(PITCH_SCHEMA)
    rows = part.to_pylist()
    assert [row["drop_reason"] for row in rows] == ["missing", None, "too_short", None]
    assert [row["pitch"] is None for row in rows] == [True, False, True, False]
    assert rows[3]["f0_mean_hz"] is None and len(rows[3]["pitch"]) == 12, "silence has codes, and no mean"
    assert _all_dropped(chunk, AudioError("quarantined", "it hung"))["drop_reason"].to_pylist() == ["quarantined"] * 4


def test_codes_are_the_tokenizers(process: FindPitch, model: str) -> None:
    wav = wav_of(40_000)
    row = process(unit_of([40_000]), [Clip(wav)]).to_pylist()[0]
    tokenizer = load_pitch_tokenizer(model)
    assert row["pitch"] == tokenizer.codes([torch.from_numpy(wav)])[0].tolist()


@pytest.mark.usefixtures("without_ray")
def test_every_segment_is_accounted_for_and_inspected(run_copy: Path, model: str) -> None:
    run_stage(run_copy, model)
    planned = read_segments(str(run_copy))["segment_id"].to_pylist()
    uris = part_uris(str(run_copy))
    assert [Path(uri).name for uri in uris] == sorted(path.name for path in (run_copy / "units").glob("part-*"))
    rows = [row for uri in uris for row in read_part(uri).to_pylist()]
    assert [row["segment_id"] for row in rows] == planned
    facts = json.loads((run_copy / "pitch/stage.json").read_text())
    dropped = parquet.read(str(run_copy / "pitch/dropped.parquet")).to_pylist()
    assert facts["counts"]["kept"]["items"] + len(dropped) == facts["counts"]["input"]["items"] == len(planned)
    assert {row["reason"] for row in dropped} == {"missing"}
    assert sum(facts["code_uses"]) == facts["num_pitch_codes"] == sum(len(row["pitch"] or ()) for row in rows)
    assert (facts["pitch_model"]["rate_hz"], facts["pitch_model"]["num_codes"]) == (12.5, 64)

    assert not list(verify(str(run_copy), "run"))
    shown = describe(str(run_copy / "pitch"), "pitch")
    text = as_text({"kind": "pitch", "path": "pitch", **shown})
    assert "64 codes at 12.5 Hz, F0 by nccf" in text and "mean F0" in text
    assert status(str(run_copy), 0.0)["pitch"]["state"] == "finished"


@pytest.mark.usefixtures("without_ray")
def test_a_resumed_run_ends_with_the_same_bytes(run_copy: Path, model: str) -> None:
    run_stage(run_copy, model)
    stage = run_copy / "pitch"
    files = ("DONE", "dropped.parquet", *(Path(uri).name for uri in part_uris(str(run_copy))))
    before = {name: (stage / name).read_bytes() for name in files}
    made_at = (stage / files[3]).stat().st_mtime_ns
    (stage / files[2]).unlink()
    (stage / "DONE").unlink()
    run_stage(run_copy, model)
    assert {name: (stage / name).read_bytes() for name in files} == before
    assert (stage / files[3]).stat().st_mtime_ns == made_at, "what was done is done again"


@pytest.mark.usefixtures("without_ray")
def test_what_was_dropped_is_retried_where_that_is_asked_for(run_copy: Path, model: str) -> None:
    run_stage(run_copy, model)
    path = Path(part_uris(str(run_copy))[1])
    before, done = path.read_bytes(), (run_copy / "pitch/DONE").read_bytes()
    with open_segments(str(run_copy)) as segments:
        plan = plan_of(segments)
        chunk = plan[plan.names.index(path.stem.removeprefix("part-"))]
    path.write_bytes(parquet.to_bytes(_all_dropped(chunk, AudioError("quarantined", "it hung"))))
    (run_copy / "pitch/DONE").unlink()
    run_stage(run_copy, model)
    assert path.read_bytes() != before
    assert (run_copy / "pitch/DONE").read_bytes() != done
    run_stage(run_copy, model, retry_dropped=True)
    assert path.read_bytes() == before and (run_copy / "pitch/DONE").read_bytes() == done


@pytest.mark.usefixtures("without_ray")
def test_damage_is_found_and_mended(run_copy: Path, model: str) -> None:
    run_stage(run_copy, model)
    path = Path(part_uris(str(run_copy))[0])
    whole = path.read_bytes()
    part = read_part(str(path))
    rows = part.to_pylist()
    kept = next(number for number, row in enumerate(rows) if row["pitch"])
    for change, words in (
        ({"pitch": [*rows[kept]["pitch"][:-1], 64]}, "outside the codebook of 64"),
        ({"pitch": [1, 2] * 200}, "codes of pitch where its time holds"),
        ({"pitch": None}, "has 0 codes, with None as the reason"),
    ):
        changed = [{**row, **change} if number == kept else row for number, row in enumerate(rows)]
        table = pa.Table.from_pylist(changed, PITCH_SCHEMA).replace_schema_metadata(part.schema.metadata)
        assert digest_of_part(table) != digest_of_part(part)
        path.write_bytes(parquet.to_bytes(table))
        found = "\n".join(verify(str(run_copy), "run"))
        assert words in found and "its DONE does not fit" in found, found
    path.write_bytes(whole[: len(whole) // 2])
    (run_copy / "pitch/DONE").unlink()
    run_stage(run_copy, model)
    assert path.read_bytes() == whole, "a damaged part is made again"


@pytest.mark.usefixtures("without_ray")
def test_what_does_not_fit_is_refused(run_copy: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"set pitch\.model"):
        tokenize_pitch(str(run_copy), PitchConfig(), ClusterConfig(), lambda *_: None)
    run_stage(run_copy, model)
    folder = tmp_path / "other"
    folder.mkdir()
    save_pitch_model(PitchVQVAE(PitchModelConfig()), folder)
    with pytest.raises(TwistError, match="made with other settings: model was"):
        run_stage(run_copy, str(folder))


def test_parts_are_what_the_audio_gives(small_run: Path, process: FindPitch) -> None:
    chunk = WorkPlan.of(read_segments(str(small_run)), "segment_id")[0]
    clips = list(read_clips(chunk.spans))
    assert parquet.to_bytes(process(chunk, clips)) == parquet.to_bytes(process(chunk, clips))
