"""Whatever tables and headers say: what is there becomes units, what is not is told, and hours add up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from model.encoder.config import EncoderConfig
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.inspection import verify
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments
from pipeline.units.codebook_fit import CodebookConfig, fit_codebook
from pipeline.units.tokenize import tokenize
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

RATE_HZ = 16_000


def sound(duration_s: float, seed: int) -> NDArray[np.float32]:
    """Tones of changing pitch, without a pause."""
    rng = np.random.default_rng(seed)
    pitches_hz = np.repeat(rng.uniform(100, 2000, round(duration_s * 5) + 1), RATE_HZ // 5)[
        : round(duration_s * RATE_HZ)
    ]
    wav = 0.3 * np.sin(2 * np.pi * np.cumsum(pitches_hz) / RATE_HZ) + 0.003 * rng.standard_normal(len(pitches_hz))
    return wav.astype(np.float32)


class Outcome(NamedTuple):
    """Per recording: seconds of units, and seconds dropped by reason; and the facts of the stages."""

    units_s: dict[str, float]
    dropped: dict[str, dict[str, float]]
    facts: dict[str, dict[str, Any]]
    run: str


def process(folder: Path, stated_s: Mapping[str, float], **segments: Any) -> Outcome:
    """Tokenizes a folder of wavs whose lengths a Lhotse manifest states."""
    rows = [
        {
            "id": name,
            "sources": [{"type": "file", "channels": [0], "source": f"{name}.wav"}],
            "sampling_rate": RATE_HZ,
            "duration": duration_s,
        }
        for name, duration_s in stated_s.items()
    ]
    (folder / "recordings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = str(folder / "run")
    cluster, encoder = ClusterConfig(), EncoderConfig()
    make_manifest(run, [CorpusConfig(str(folder), "lhotse", name="c", language="en")], silently)
    filter_languages(run, LanguageConfig(), cluster, silently)
    make_segments(run, SegmentConfig(**{"min_s": 1.0, "max_s": 10.0, **segments}), cluster, silently)
    fit_codebook(run, CodebookConfig(num_units=8, num_iterations=2), encoder, cluster, silently)
    tokenize(run, encoder, cluster, silently)
    assert list(verify.verify_run(run)) == []
    units_s: dict[str, float] = {}
    for path in (folder / "run/units").glob("part-*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert row["end_s"] - row["start_s"] >= (row["num_frames"] or 0) / 25 - 0.05, (
                "units of audio that is not there"
            )
            if row["drop_reason"] is None:
                name = row["recording_id"].partition("/")[2]
                units_s[name] = units_s.get(name, 0.0) + row["end_s"] - row["start_s"]
    dropped: dict[str, dict[str, float]] = {}
    for stage in ("segments", "units"):
        for row in pq.read_table(folder / f"run/{stage}/dropped.parquet").to_pylist():
            reasons = dropped.setdefault(row["id"].partition("/")[2].partition("#")[0], {})
            reasons[row["reason"]] = reasons.get(row["reason"], 0.0) + row["duration_s"]
    facts = {stage: json.loads((folder / f"run/{stage}/stage.json").read_text()) for stage in ("segments", "units")}
    return Outcome(units_s, dropped, facts, run)


@pytest.mark.usefixtures("without_ray")
def test_tables_that_state_other_lengths(tmp_path: Path) -> None:
    real_s = {"right": 6.0, "short": 8.0, "long": 6.0, "far_too_short": 25.0}
    for seed, (name, duration_s) in enumerate(real_s.items()):
        soundfile.write(tmp_path / f"{name}.wav", sound(duration_s, seed), RATE_HZ)
    found = process(tmp_path, {"right": 6.0, "short": 5.0, "long": 6.3, "far_too_short": 4.0}, detect_speech="none")
    assert found.units_s == pytest.approx({"right": 6.0, "short": 8.0, "long": 6.0, "far_too_short": 10.0})
    assert found.dropped["long"] == pytest.approx({"truncated": 0.3})
    assert found.dropped["far_too_short"] == pytest.approx({"beyond_stated_end": 15.0})
    assert found.dropped.keys() == {"long", "far_too_short"}
    lengths = found.facts["units"]["lengths"]
    assert (lengths["longer_than_stated"]["items"], lengths["shorter_than_stated"]["items"]) == (2, 1)
    assert lengths["longer_than_stated"]["hours"] * 3600 == pytest.approx(3.0 + 21.0)


@pytest.mark.usefixtures("without_ray")
def test_searched_recordings_are_as_long_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a detector that takes all for speech, everything that is there becomes units."""
    monkeypatch.setattr(
        "pipeline.audio.voice_activity.SpeechDetector.__call__", lambda _, wav: [(0.0, len(wav) / RATE_HZ)]
    )
    real_s = {"right": 30.0, "longer": 40.0, "shorter": 30.0}
    for seed, (name, duration_s) in enumerate(real_s.items()):
        soundfile.write(tmp_path / f"{name}.wav", sound(duration_s, seed), RATE_HZ)
    damaged = sound(30.0, 9)
    damaged[17 * RATE_HZ] = np.nan
    soundfile.write(tmp_path / "damaged.wav", damaged, RATE_HZ, subtype="FLOAT")
    stated_s = {"right": 30.0, "longer": 20.0, "shorter": 33.0, "damaged": 30.0}
    found = process(tmp_path, stated_s, detect_speech="all", padding_s=0.0, work_unit_minutes=1.0)
    assert found.units_s == pytest.approx({**real_s, "damaged": 29.9}, abs=0.01)
    assert found.dropped["shorter"] == pytest.approx({"truncated": 3.0})
    assert found.dropped["damaged"]["not_finite"] == pytest.approx(0.1, abs=1e-3)
    assert found.facts["segments"]["lengths"]["longer_than_stated"] == pytest.approx({"items": 1, "hours": 20 / 3600})
    assert found.facts["segments"]["lengths"]["shorter_than_stated"] == pytest.approx({"items": 1, "hours": 3 / 3600})
    table = pq.read_table(tmp_path / "run/segments/lengths.parquet").to_pylist()
    assert {row["recording_id"]: (row["stated_s"], row["actual_s"]) for row in table} == {
        "c/longer": (20.0, pytest.approx(40.0)),
        "c/shorter": (33.0, pytest.approx(30.0)),
    }


@pytest.mark.usefixtures("without_ray")
def test_of_a_short_damaged_recording_the_longest_stretch_stays(tmp_path: Path) -> None:
    damaged = sound(9.0, 1)
    damaged[3 * RATE_HZ] = np.nan
    soundfile.write(tmp_path / "damaged.wav", damaged, RATE_HZ, subtype="FLOAT")
    soundfile.write(tmp_path / "whole.wav", sound(9.0, 2), RATE_HZ)
    found = process(tmp_path, {"damaged": 9.0, "whole": 9.0}, detect_speech="none")
    assert found.units_s == pytest.approx({"damaged": 5.95, "whole": 9.0}, abs=1e-3)
    assert found.dropped == {"damaged": pytest.approx({"not_finite": 3.05}, abs=1e-3)}
