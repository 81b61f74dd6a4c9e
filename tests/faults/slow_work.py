"""Slow work, so that tests can kill it halfway: run as a command, or in a test's own process.

    python -m tests.faults.slow_work FOLDER SETTINGS

FOLDER has plan.parquet. Parts are written to FOLDER/parts, a file per attempt at a chunk to FOLDER/marks, and what
dataflow returns to work.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from pipeline.audio.read import AudioError, Clip
from pipeline.files import parquet
from pipeline.work import dataflow
from pipeline.work.cluster import ClusterConfig
from pipeline.work.plan import Chunk, WorkPlan
from tests.progress import silently


class SlowlyMeasure:
    """Sleeps for `seconds`, then records the sum of each span's absolute samples."""

    def __init__(self, marks: str, seconds: float) -> None:
        self._marks = Path(marks)
        self._seconds = seconds

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        (self._marks / f"{chunk.name}-{os.getpid()}-{time.time_ns()}").touch()
        time.sleep(self._seconds)
        return _table(
            chunk, [clip.reason if isinstance(clip, AudioError) else f"{np.abs(clip.wav).sum():.6f}" for clip in clips]
        )


def write_plan(folder: Path, num_chunks: int, seconds_of_audio: float) -> None:
    """Writes an audio file, and a plan whose chunks each read all of it."""
    (folder / "marks").mkdir(parents=True, exist_ok=True)
    uri = str(folder / "noise.flac")
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds_of_audio * 44_100)).astype(np.float32)
    soundfile.write(uri, wav, 44_100)
    names = [f"noise-{number:07d}" for number in range(num_chunks)]
    columns = {
        "work_unit": names,
        "id": [f"{name}/whole" for name in names],
        "uri": [uri] * num_chunks,
        "channel": pa.array([None] * num_chunks, pa.int32()),
        "start_s": [0.0] * num_chunks,
        # Each a little shorter, so that no two parts are equal.
        "end_s": [seconds_of_audio - 0.01 * number for number in range(num_chunks)],
    }
    parquet.write(str(folder / "plan.parquet"), pa.table(columns))


def do_work(folder: Path, seconds: float, **cluster: float) -> dict[str, object]:
    """Processes the chunks of the plan that have no part yet."""
    plan = WorkPlan.of(parquet.read(str(folder / "plan.parquet")), "id")
    arguments = {"marks": str(folder / "marks"), "seconds": seconds}
    parts = str(folder / "parts")
    settings = ClusterConfig(**cluster)  # type: ignore[arg-type]
    return dataflow.run_chunks(plan, parts, SlowlyMeasure, arguments, _quarantined, settings, silently)


def outcomes_of(folder: Path) -> dict[str, bytes]:
    """The content of all files in the folder of parts, by name."""
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}


def expected_outcomes(folder: Path) -> dict[str, bytes]:
    """The parts of an undisturbed run, computed without Ray."""
    from pipeline.audio.read import read_clips

    plan = WorkPlan.of(parquet.read(str(folder / "plan.parquet")), "id")
    measure = SlowlyMeasure(str(folder / "marks"), 0.0)
    parts = {
        f"part-{chunk.name}.parquet": parquet.to_bytes(measure(chunk, list(read_clips(chunk.spans)))) for chunk in plan
    }
    for mark in (folder / "marks").iterdir():
        mark.unlink()
    return parts


def _table(chunk: Chunk, outcomes: Sequence[str]) -> pa.Table:
    return pa.table({"id": chunk.ids, "outcome": outcomes, "drop_reason": pa.nulls(len(outcomes), pa.string())})


def _quarantined(chunk: Chunk, error: AudioError) -> pa.Table:
    return _table(chunk, [str(error)] * len(chunk.ids))


if __name__ == "__main__":
    from tests.faults import slow_work  # by the name under which workers import it

    work = slow_work.do_work(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    (Path(sys.argv[1]) / "work.json").write_text(json.dumps(work))
