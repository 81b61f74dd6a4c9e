"""Packing at fractions of full size: minutes and memory, and an extrapolation to full size.

    python benchmarks/pack.py [--scales 0.005 0.02 0.05] [--folder DIR] [--one-core | --deciding] [--quick] [--json]

At full size, 22 million segments of 1.5 million recordings have 9 billion units in 300,000 part files. Units come from
a Markov chain over 500 kinds with the frequencies of Zipf's law; every 200th segment is a copy of another with a tenth
of its units changed, and every 400th an identical copy. The whole of `pack` runs with its defaults, near duplicates
included, on Ray with all cores of this machine; memory is the total of all its processes. Minutes depend on the
machine's other work, core minutes hardly do. --one-core runs all tasks one after another in one process, without Ray.

--deciding measures only the process that decides, on made-up facts instead of surveyed ones: no units are made and no
shards written, so it takes seconds at 1/20 and some minutes at full size.

`growth_exponent` is the slope of log(core minutes) over log(size) between the largest two sizes: 1 is linear.
`deciding_gib_per_million_segments` is the slope of the deciding process's peak memory between them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from benchmarks.processes import cpu_seconds, family, memory_gib
from pipeline.files import parquet, storage
from pipeline.packing.config import DegenerateConfig, DuplicatesConfig
from pipeline.packing.duplicates import SIMILAR_SCHEMA
from pipeline.packing.facts import FACTS_SCHEMA, Facts, Survey
from pipeline.packing.pack import PARTS_PER_BATCH
from pipeline.records import LANGUAGE_SCHEMA, RECORDING_SCHEMA, SEGMENT_SCHEMA, UNITS_SCHEMA
from pipeline.runs import CODEBOOK
from pipeline.shards import open_dataset
from pipeline.stage import Stage, StageCounts, Tally, read_facts
from pipeline.units import codebook
from pipeline.units.parts import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FULL_PARTS, SEGMENTS_PER_PART, RECORDINGS_PER_PART = 300_000, 73, 5
NUM_UNITS, SEGMENT_S, FRAME_RATE_HZ = 500, 24.5, 25
# About a quarter of a million segments, as in `pack`; whole batches.
PARTS_PER_RANGE = 50 * PARTS_PER_BATCH
QUICK_SCALES = (0.0002, 0.0005)
# Runs one part of this script in a process of its own.
STEP = "import sys; from benchmarks import pack; pack.{}(sys.argv[1])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.005, 0.02, 0.05])
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    parser.add_argument("--one-core", action="store_true", help="one task at a time, without Ray")
    parser.add_argument("--deciding", action="store_true", help="only the process that decides, on facts made up")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    if len(arguments.scales) < 2:
        parser.error("growth is told between two sizes: give --scales at least two")
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])  # of Ray's workers
    scales = QUICK_SCALES if arguments.quick else arguments.scales
    step = "pack_run_here" if arguments.one_core else "pack_run"
    if arguments.deciding:
        results = [measure_deciding(scale, arguments.folder) for scale in scales]
    else:
        results = [measure(scale, arguments.folder, step) for scale in scales]
    figures: dict[str, Any] = {}
    for scale, result in zip(scales, results, strict=True):
        figures |= {f"{name}_at_{scale:g}": value for name, value in result.items()}
    (less, more), (small, large) = [r["core_minutes"] for r in results[-2:]], scales[-2:]
    figures["core_hours_at_full_size"] = more / large / 60
    first, last = results[-2:]
    figures["deciding_gib_per_million_segments"] = (last["deciding_gib"] - first["deciding_gib"]) / (
        (last["segments"] - first["segments"]) / 1e6
    )
    ratios = {"growth_exponent": math.log(more / less) / math.log(large / small)}
    if arguments.json:
        print(json.dumps({"ratios": ratios, "figures": figures, "machine": machine()}))
        return
    for name, value in {**figures, **ratios}.items():
        print(f"{name:36} {value:.6g}")


def measure(scale: float, folder: Path | None, step: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        run = str(Path(work) / "run")
        make_run(run, scale)
        begin = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", STEP.format(step), run])
        peak_gib, deciding_gib, peak_disk_gib, core_minutes = watch(process, Path(run))
        if process.returncode:
            raise SystemExit(f"packing failed with status {process.returncode}")
        minutes = (time.perf_counter() - begin) / 60
        facts = read_facts(run, "shards")
        shards = open_dataset(storage.join(run, "shards")).info["shards"]
        sizes = [shard["num_units"] for shard in shards if shard["path"].startswith("train/")]
        dropped = facts["counts"]["dropped"]
        num_segments = facts["counts"]["input"]["items"]
        return {
            "segments": num_segments,
            "million_units": read_facts(run, "units")["num_units"] / 1e6,
            "minutes": minutes,
            "core_minutes": core_minutes,
            "peak_gib": peak_gib,
            "deciding_gib": deciding_gib,
            "peak_disk_gib": peak_disk_gib,
            "shards": len(shards),
            "shard_unevenness": max(sizes) / np.mean(sizes) - 1 if sizes else 0.0,
            "exact_found": dropped.get("duplicate", {}).get("items", 0) / max(1, num_segments // 400),
            "near_found": dropped.get("near_duplicate", {}).get("items", 0) / max(1, num_segments // 200),
        }


def measure_deciding(scale: float, folder: Path | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        run = str(Path(work) / "run")
        num_segments = make_facts(run, scale)
        process = subprocess.Popen([sys.executable, "-c", STEP.format("decide"), run])
        peak_gib, deciding_gib, _, core_minutes = watch(process, Path(run))
        if process.returncode:
            raise SystemExit(f"deciding failed with status {process.returncode}")
        return {
            "segments": num_segments,
            "core_minutes": core_minutes,
            "peak_gib": peak_gib,
            "deciding_gib": deciding_gib,
        }


def watch(process: subprocess.Popen[bytes], run: Path) -> tuple[float, float, float, float]:
    """Watches a process and its descendants to the end.

    Returns:
        GiB of peak memory of all of them, of the process alone, and of peak disk of the run; core minutes.
    """
    peak = own = disk = 0.0
    cpu_s: dict[int, float] = {}
    done = threading.Event()

    def look_at_disk() -> None:
        nonlocal disk
        while not done.wait(2):
            used = subprocess.run(["du", "-sb", run], capture_output=True, text=True, check=False).stdout
            disk = max(disk, float(used.split()[0]) / 2**30 if used else 0.0)

    thread = threading.Thread(target=look_at_disk)
    thread.start()
    while process.poll() is None:
        members = family(process.pid)
        held = {pid: memory_gib(pid) for pid in members}
        peak, own = max(peak, sum(held.values())), max(own, held[process.pid])
        cpu_s |= {pid: max(cpu_s.get(pid, 0.0), cpu_seconds(pid)) for pid in members}
        time.sleep(0.5)
    done.set()
    thread.join()
    return peak, own, disk, sum(cpu_s.values()) / 60


def pack_run(run: str) -> None:
    from pipeline.packing.config import PackConfig
    from pipeline.packing.pack import pack

    begin = time.perf_counter()
    last = [""]

    def report(done: int, total: int, noun: str, detail: str = "") -> None:  # noqa: ARG001 - as commands call it
        if noun != last[0] or done == total:
            print(f"{time.perf_counter() - begin:8.1f} s  {done} of {total} {noun}", file=sys.stderr, flush=True)
            last[0] = noun

    pack(run, PackConfig(), report)


def pack_run_here(run: str) -> None:
    """Packs in this process alone."""
    from pipeline.work import cluster

    cluster.map_tasks = lambda function, items, num_cpus=1: map(function, items)  # noqa: ARG005 - its keyword
    pack_run(run)


def decide(run: str) -> None:
    """Decides on a run of `make_facts`: all that the deciding process does, except waiting for tasks."""
    from pipeline.packing.config import PackConfig
    from pipeline.packing.pack import _Packing

    stage = Stage(run, "shards", {}, {})
    packing = _Packing(stage, PackConfig(), codebook.load(storage.join(run, CODEBOOK)), lambda *_: None)
    num_parts = len(storage.list_files(storage.join(run, "work"), ".parquet")) * PARTS_PER_RANGE
    packing.batches = [Batch(number, ()) for number in range(math.ceil(num_parts / PARTS_PER_BATCH))]
    files = tuple(storage.join(run, "work", name) for name in storage.list_files(storage.join(run, "work"), ".parquet"))
    facts = Facts.read(files, len(packing.batches))
    packing._read_facts = lambda _: facts  # type: ignore[method-assign]
    packing._compare_speech = lambda *_: similar(len(facts))  # type: ignore[method-assign]
    packing._decide(Survey("", DegenerateConfig(), DuplicatesConfig(landmark_units=3), None, 1))


def similar(num_segments: int) -> pa.Table:
    """As many compared pairs as `make_run` plants near duplicates, half of them the same speech."""
    right = np.arange(1000, num_segments, 100)
    columns = [right - 997, right, np.tile([0.3, 0.9], len(right))[: len(right)], np.full(len(right), 600)]
    return pa.table(columns, schema=SIMILAR_SCHEMA)


def make_facts(run: str, scale: float) -> int:
    """Makes a run whose facts exist, sorted by id; returns the number of segments."""
    num_ranges = max(1, round(FULL_PARTS * scale / PARTS_PER_RANGE))
    num_recordings = num_ranges * PARTS_PER_RANGE * RECORDINGS_PER_PART
    ids = [f"corpus/{number // 1000:05d}/{number:07d}.flac" for number in range(num_recordings)]
    write_inputs(run, ids)
    encoder = {"name": "hubert", "fingerprint": "synthetic", "frame_rate_hz": FRAME_RATE_HZ}
    codebook.save(storage.join(run, CODEBOOK), np.zeros((NUM_UNITS, 2), np.float32), {"encoder": encoder})
    per_range = PARTS_PER_RANGE * SEGMENTS_PER_PART
    finish(run, "units", Tally(), lambda _: None, num_units=per_range * num_ranges * 409)
    generator = np.random.default_rng(0)
    for number in range(num_ranges):
        row = number * per_range + np.arange(per_range)
        part, place = row // SEGMENTS_PER_PART, row % SEGMENTS_PER_PART
        recordings = (part * RECORDINGS_PER_PART + place * RECORDINGS_PER_PART // SEGMENTS_PER_PART).tolist()
        contents = generator.integers(0, 2**63, (per_range, 2), np.uint64)
        contents[399::400] = contents[:-399:400][: len(contents[399::400])]
        starts = place * SEGMENT_S
        columns = {
            "batch": part // PARTS_PER_BATCH,
            "row": row % (PARTS_PER_BATCH * SEGMENTS_PER_PART),
            "segment_id": [
                f"{ids[recording]}#{round(1000 * start):08d}-{round(1000 * (start + SEGMENT_S)):08d}"
                for recording, start in zip(recordings, starts.tolist(), strict=True)
            ],
            "recording_id": [ids[recording] for recording in recordings],
            "start_s": starts,
            "end_s": starts + SEGMENT_S,
            "num_units": generator.integers(390, 430, per_range),
            "num_frames": np.full(per_range, round(SEGMENT_S * FRAME_RATE_HZ)),
            "content": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), per_range, [None, pa.py_buffer(contents.tobytes())]
            ),
            "reason": pa.nulls(per_range),
            "detail": pa.nulls(per_range),
        }
        table = pa.table([pa.array(columns[f.name]).cast(f.type) for f in FACTS_SCHEMA], schema=FACTS_SCHEMA)
        Path(run, "work").mkdir(exist_ok=True)
        Path(run, "work", f"facts-by-id-{number:06d}.parquet").write_bytes(parquet.to_bytes(table))
    return num_ranges * per_range


def make_run(run: str, scale: float) -> None:
    """Writes all stages before packing, as if finished."""
    num_parts = max(2, round(FULL_PARTS * scale))
    ids = [f"corpus/{number // 1000:05d}/{number:07d}.flac" for number in range(num_parts * RECORDINGS_PER_PART)]
    write_inputs(run, ids)
    encoder = {"name": "hubert", "fingerprint": "synthetic", "frame_rate_hz": FRAME_RATE_HZ}
    codebook.save(storage.join(run, CODEBOOK), np.zeros((NUM_UNITS, 2), np.float32), {"encoder": encoder})
    num_units = write_parts(storage.join(run, "units"), num_parts, ids)
    segments = Tally(num_parts * SEGMENTS_PER_PART, num_parts * SEGMENTS_PER_PART * SEGMENT_S / 3600)
    finish(run, "units", segments, lambda _: None, num_units=num_units)


def write_inputs(run: str, ids: list[str]) -> None:
    """Writes the first three stages of a run with these recordings, ten per speaker, as if finished."""
    num_recordings = len(ids)
    total = Tally(num_recordings, num_recordings)
    columns = {
        "recording_id": pa.array(ids),
        "corpus": pa.array(["corpus"] * num_recordings),
        "uri": pa.array(ids),
        "duration_s": pa.array(np.full(num_recordings, 3600.0)),
        "sample_rate_hz": pa.array(np.full(num_recordings, 16_000)),
        "num_channels": pa.array(np.full(num_recordings, 1)),
        "speaker": pa.array([f"corpus/{number // 10}" for number in range(num_recordings)]),
    }
    recordings = pa.table(
        [pa.array(columns.get(f.name, pa.nulls(num_recordings))).cast(f.type) for f in RECORDING_SCHEMA],
        schema=RECORDING_SCHEMA,
    )
    corpora = {"corpora": [{"root": "/audio/corpus", "name": "corpus"}]}
    finish(run, "manifest", total, lambda uri: parquet.write(storage.join(uri, "corpus.parquet"), recordings), corpora)
    decided = {
        "recording_id": recordings["recording_id"],
        "keep": pa.array([True] * num_recordings),
        "language": pa.array(["en"] * num_recordings),
        "evidence": pa.array(["metadata"] * num_recordings),
    }
    decisions = pa.table(
        [decided.get(f.name, pa.nulls(num_recordings)).cast(f.type) for f in LANGUAGE_SCHEMA], schema=LANGUAGE_SCHEMA
    )
    finish(run, "language", total, lambda uri: parquet.write(storage.join(uri, "decisions.parquet"), decisions))
    write_segments(run, ids)


def write_segments(run: str, recordings: list[str]) -> None:
    """Writes the segments stage, as far as packing reads it, as if finished."""
    names = ("recording_id", "uri", "channel")
    schema = pa.schema([SEGMENT_SCHEMA.field(name) for name in names])

    def groups() -> Iterator[pa.Table]:
        for first in range(0, len(recordings), RECORDINGS_PER_PART * PARTS_PER_BATCH):
            ids = recordings[first : first + RECORDINGS_PER_PART * PARTS_PER_BATCH]
            rows = pa.array(np.repeat(np.arange(len(ids)), SEGMENTS_PER_PART // RECORDINGS_PER_PART))
            of_row = pa.array(ids).take(rows)
            yield pa.table([of_row, of_row, pa.nulls(len(rows), pa.int16())], schema=schema)

    content = parquet.groups_to_bytes(groups(), schema)
    finish(run, "segments", Tally(), lambda uri: storage.write_bytes(storage.join(uri, "segments.parquet"), content))


def finish(run: str, name: str, total: Tally, write: Any, config: dict[str, Any] | None = None, **facts: Any) -> None:
    stage = Stage(run, name, config or {}, {})
    with stage.begin():
        write(stage.uri)
        stage.finish(StageCounts.of(total, total, []), [], name, **facts)


def write_parts(folder: str, num_parts: int, recordings: list[str]) -> int:
    """Writes parts of speech-like units, without syncing each to disk; returns the number of units."""
    Path(folder).mkdir(parents=True)
    speak = Markov()
    total = 0
    earlier: list[tuple[NDArray[np.uint16], NDArray[np.uint16]]] = []
    for number in range(num_parts):
        generator = np.random.default_rng(number)
        segments = [speak(generator) for _ in range(SEGMENTS_PER_PART)]
        for place in range(SEGMENTS_PER_PART):
            serial = number * SEGMENTS_PER_PART + place
            if serial % 400 == 399 and earlier:
                segments[place] = earlier[serial % len(earlier)]
            elif serial % 200 == 99 and earlier:
                segments[place] = noisy(earlier[serial % len(earlier)], generator)
        earlier = [*earlier[-500:], *segments[1:4]]
        ids = [
            recordings[number * RECORDINGS_PER_PART + p * RECORDINGS_PER_PART // SEGMENTS_PER_PART]
            for p in range(SEGMENTS_PER_PART)
        ]
        starts = [SEGMENT_S * place for place in range(SEGMENTS_PER_PART)]
        units, durations = ([segment[which] for segment in segments] for which in (0, 1))
        total += sum(map(len, units))
        table = pa.table(
            [
                pa.array(
                    [
                        f"{id}#{round(1000 * s):08d}-{round(1000 * (s + SEGMENT_S)):08d}"
                        for id, s in zip(ids, starts, strict=True)
                    ]
                ),
                pa.array(ids),
                pa.array(starts),
                pa.array([start + SEGMENT_S for start in starts]),
                pa.array([int(d.sum()) for d in durations], pa.int32()),
                pa.array(units, pa.list_(pa.uint16())),
                pa.array(durations, pa.list_(pa.uint16())),
                pa.nulls(SEGMENTS_PER_PART, pa.string()),
                pa.nulls(SEGMENTS_PER_PART, pa.string()),
            ],
            schema=UNITS_SCHEMA,
        )
        Path(folder, f"part-corpus-{number:07d}.parquet").write_bytes(parquet.to_bytes(table))
    return total


class Markov:
    """Units with the frequencies of Zipf's law, each followed by one of its 40 likely successors."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        weights = 1 / np.arange(1, NUM_UNITS + 1)
        self._next = generator.choice(NUM_UNITS, (NUM_UNITS, 40), p=weights / weights.sum())
        own = np.arange(NUM_UNITS)[:, None]
        self._next = np.where(self._next == own, (self._next + 1) % NUM_UNITS, self._next).tolist()

    def __call__(self, generator: np.random.Generator) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        count = int(generator.integers(390, 430))
        unit = int(generator.integers(NUM_UNITS))
        units = []
        for choice in np.minimum(39, generator.geometric(0.08, count)).tolist():
            unit = self._next[unit][choice]
            units.append(unit)
        return np.array(units, np.uint16), durations_of(count)


def durations_of(count: int) -> NDArray[np.uint16]:
    """Durations of a segment's units, which add up to its frames."""
    edges = np.arange(count + 1) * round(SEGMENT_S * FRAME_RATE_HZ) // count
    return np.diff(edges).astype(np.uint16)


def noisy(
    segment: tuple[NDArray[np.uint16], NDArray[np.uint16]], generator: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """A copy with a tenth of its units, chosen at random, replaced."""
    units = segment[0].copy()
    places = np.flatnonzero(generator.random(len(units)) < 0.1)
    for place in places.tolist():
        taken = {int(units[place - 1]), int(units[min(place + 1, len(units) - 1)])}
        units[place] = next(u for u in generator.permutation(5).tolist() if u not in taken)
    return units, segment[1]


if __name__ == "__main__":
    main()
