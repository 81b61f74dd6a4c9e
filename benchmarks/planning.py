"""Planning and resuming a run of 150,000 hours: minutes and memory of the command's main process.

    python benchmarks/planning.py [--scale 1.0] [--folder DIR] [--quick] [--json]

At full scale, 1.5 million recordings have 150,000 hours. For two fifths of the hours voice activity is known, as it is
for Libri-Light, and they are cut at pauses; the rest is cut into equal parts.

1. plan: the segment stage, from manifest and language decisions to some 22 million segments in chunks.
2. resume: the tokenize stage, with the segments and a folder that has the parts of all chunks but one, through Ray, up
   to that last part. (Its audio is empty files, which the part records.)

--quick runs a hundredth of this and extrapolates in proportion.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from pipeline.files import parquet, storage
from pipeline.records import LANGUAGE_SCHEMA, RECORDING_SCHEMA
from pipeline.runs import SEGMENTS
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments, open_segments, plan_of
from pipeline.stage import Stage, StageCounts, Tally, read_facts
from pipeline.work import dataflow
from pipeline.work.cluster import ClusterConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.audio.read import AudioError, Clip
    from pipeline.work.plan import Chunk

# Corpora: name, recordings at full scale, their length in seconds, and whether voice activity is known.
CORPORA = (
    ("audiobooks", 216_000, 1000.0, True),
    ("podcasts", 40_000, 2000.0, False),
    ("clips", 1_244_000, 196.5, False),
)
REGION_S, PAUSE_S = 9.0, 0.6
QUICK_SCALE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of 150,000 hours")
    parser.add_argument("--folder", type=Path, help="where to make the run; a temporary folder unless given")
    parser.add_argument("--quick", action="store_true", help="a hundredth: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])  # of Ray's workers
    scale = QUICK_SCALE if arguments.quick else arguments.scale
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = str(Path(folder) / "run")
        in_a_process(make_manifest, run, scale)
        plan_s, plan_gib = in_a_process(plan, run)
        facts = read_facts(run, SEGMENTS)
        in_a_process(make_parts, run)
        resume_s, resume_gib = in_a_process(resume, run)
    figures = {
        "scale": scale,
        "hours": facts["counts"]["input"]["hours"],
        "recordings": facts["counts"]["input"]["items"],
        "segments": facts["segments"],
        "work_units": facts["work_units"],
        "plan_minutes": plan_s / 60,
        "plan_peak_gib": plan_gib,
        "resume_s": resume_s,
        "resume_peak_gib": resume_gib,
        "plan_minutes_at_full_scale": plan_s / 60 / scale,
    }
    if arguments.json:
        print(json.dumps({"ratios": {}, "figures": figures, "machine": machine()}))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:.6g}")


def in_a_process(function: Callable[..., Any], *arguments: object) -> tuple[float, float]:
    """Runs a function in a process of its own; returns its seconds and peak GiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, *arguments))


def _measured(function: Callable[..., Any], *arguments: object) -> tuple[float, float]:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_manifest(run: str, scale: float) -> None:
    """Writes the first two stages, as if finished."""
    total = Tally()
    decisions = []
    manifest = Stage(run, "manifest", {}, {})
    with manifest.begin():
        for name, count, duration_s, has_activity in sorted(CORPORA):
            table = recordings(run, name, max(1, round(count * scale)), duration_s, has_activity)
            parquet.write(storage.join(run, "manifest", f"{name}.parquet"), table)
            total += Tally(len(table), len(table) * duration_s / 3600)
            decisions.append(decided(table["recording_id"]))
        manifest.finish(StageCounts.of(total, total, []), [], "manifest")
    language = Stage(run, "language", {}, {})
    with language.begin():
        parquet.write(storage.join(run, "language", "decisions.parquet"), pa.concat_tables(decisions))
        language.finish(StageCounts.of(total, total, []), [], "language")


def recordings(run: str, corpus: str, count: int, duration_s: float, has_activity: bool) -> pa.Table:
    ids = [f"{corpus}/{number // 1000:05d}/{number:07d}.flac" for number in range(count)]
    columns = {
        "recording_id": pa.array(ids),
        "corpus": pa.array([corpus] * count),
        "uri": pa.array([f"{run}/speech-corpora/{id}" for id in ids]),
        "duration_s": pa.array(np.full(count, duration_s)),
        "sample_rate_hz": pa.array(np.full(count, 16_000, np.int32)),
        "num_channels": pa.array(np.full(count, 1, np.int32)),
        "voice_activity": activity(count, duration_s) if has_activity else pa.nulls(count),
    }
    return pa.table(
        {field.name: pa.array(columns.get(field.name, pa.nulls(count))).cast(field.type) for field in RECORDING_SCHEMA},
        schema=RECORDING_SCHEMA,
    )


def activity(count: int, duration_s: float) -> pa.Array:
    """Speech of about `REGION_S` between pauses of about `PAUSE_S`, [on, off] in seconds."""
    per_recording = int(duration_s / (REGION_S + PAUSE_S))
    generator = np.random.default_rng(0)
    lengths = generator.uniform(0.5, 1.5, (count, per_recording, 2)) * [PAUSE_S, REGION_S]
    edges = np.minimum(lengths.reshape(count, -1).cumsum(axis=1), duration_s)
    kind = RECORDING_SCHEMA.field("voice_activity").type
    pairs = pa.ListArray.from_arrays(np.arange(0, edges.size + 1, 2, dtype=np.int32), pa.array(edges.reshape(-1)))
    offsets = np.arange(0, count * per_recording + 1, per_recording, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pairs).cast(kind)


def decided(ids: pa.ChunkedArray) -> pa.Table:
    count = len(ids)
    columns = {"recording_id": ids, "keep": pa.array([True] * count), "language": pa.array(["en"] * count)}
    columns["evidence"] = pa.array(["metadata"] * count)
    names = LANGUAGE_SCHEMA.names
    return pa.table(
        {name: columns.get(name, pa.nulls(count)).cast(LANGUAGE_SCHEMA.field(name).type) for name in names},
        schema=LANGUAGE_SCHEMA,
    )


def plan(run: str) -> None:
    make_segments(run, SegmentConfig(detect_speech="none"), ClusterConfig(), silently)


def make_parts(run: str) -> None:
    """Writes a file for every chunk but one, which a resumed run does not look into, and the audio of that one."""
    folder = Path(run) / "units"
    folder.mkdir()
    with open_segments(run) as segments:
        work = plan_of(segments)
        middle = len(work) // 2
        for span in work[middle].spans:
            Path(span.uri).parent.mkdir(parents=True, exist_ok=True)
            Path(span.uri).touch()
    for name in work.names[:middle] + work.names[middle + 1 :]:
        (folder / f"part-{name}.parquet").touch()


class WriteReasons:
    """Stands in for the encoder, which a part without audio does not need."""

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        return pa.table({"id": chunk.ids, "drop_reason": [getattr(clip, "reason", None) for clip in clips]})


def resume(run: str) -> None:
    from benchmarks.planning import WriteReasons  # by the name that Ray's workers find it under

    parts = storage.join(run, "units")
    with open_segments(run) as segments:
        work = plan_of(segments)
        dataflow.run_chunks(work, parts, WriteReasons, {}, quarantined, ClusterConfig(), silently)


def quarantined(chunk: Chunk, error: AudioError) -> pa.Table:
    raise AssertionError(f"{chunk.name}: {error}")


def silently(done: int, total: int, noun: str, detail: str = "") -> None:
    """Reports nothing."""


if __name__ == "__main__":
    main()
