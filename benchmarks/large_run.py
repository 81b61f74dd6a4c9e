"""Commands over the files of a run of 150,000 hours: seconds, and memory above their imports.

    python benchmarks/large_run.py [--scale 1.0] [--folder DIR] [--steps STEP ...] [--quick] [--json]

At full scale 1.5 million recordings are cut into 22.5 million segments, which make as many samples, shuffled over 450
shards. All Parquet files and dataset.json are as the stages write them; tars are as long as they would be, and empty:
nothing here opens one. Each step is a process of its own:

    filter    twist filter, by metadata, without same_speech's fingerprints of audio
    inspect   twist inspect RUN
    verify    twist inspect RUN --verify --no-checksums
    report    twist report RUN, of which no audio is there to cut
    pick      twist resynthesize --held-out validation: the utterance that is taken
    train     twist train, up to the first batch's samples: no unit is read
    speakers  twist evaluate: whom each validation sample is of
    trace     twist trace, of the key of the last sample but one

and `small_inspect` is the whole command `twist inspect RUN` on a ten-thousandth. Goals: two minutes on two cores, of
`trace` 10 s, 1 GiB above the imports; 2 s for the small run. Seconds depend on what else the machine does, those of a
core hardly.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from pipeline.files import parquet, storage
from pipeline.files.tar_writer import BLOCK_BYTES
from pipeline.records import RECORDING_SCHEMA, SAMPLE_CHECKSUMS, SAMPLE_SCHEMA, SEGMENT_SCHEMA, UNITS_SCHEMA
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, SEGMENTS, SHARDS, UNITS
from pipeline.shards import open_dataset, write_index
from pipeline.stage import Stage, StageCounts, Tally, digest, digest_of_files, fingerprint_of, read_facts
from pipeline.units import codebook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

RECORDINGS, SEGMENTS_PER_RECORDING, SEGMENT_S = 1_500_000, 15, 24.0
CORPORA = ("audiobooks", "clips", "podcasts")
RECORDINGS_PER_SPEAKER, VALIDATION_SPEAKERS = 15, 0.01
SAMPLES_PER_SHARD, SEGMENTS_PER_CHUNK = 50_000, 75
NUM_UNITS, FRAMES_PER_SEGMENT, MAX_UNITS = 500, 600, 704
QUICK_SCALE, SMALL_SCALE = 0.005, 0.0001
GOAL_S, TRACE_GOAL_S, GOAL_GIB = 120, 10, 1.0
HASH_FACTOR = 0x9E3779B97F4A7C15
# What each step imports before memory is measured, and the function here that does its work.
STEPS = {
    "filter": ("pipeline.language.filter",),
    "inspect": ("pipeline.inspection.describe", "pipeline.inspection.text"),
    "verify": ("pipeline.inspection.verify",),
    "report": ("pipeline.report.report",),
    "pick": ("pipeline.speaking.dataset",),
    "train": ("model.lm.loader", "model.lm.trainer"),
    "speakers": ("model.lm.loader", "model.lm.confidence"),
    "trace": ("pipeline.tracing.trace", "pipeline.tracing.text"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of 150,000 hours")
    parser.add_argument("--folder", type=Path, help="where to make the run; a temporary folder unless given")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="all unless given")
    parser.add_argument("--quick", action="store_true", help="a two-hundredth: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    scale = QUICK_SCALE if arguments.quick else arguments.scale
    figures: dict[str, float] = {"scale": scale}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = str(Path(folder) / "run")
        in_a_process(make_manifest, run, scale)
        # The language stage is what the filter itself makes.
        figures |= measured("filter", run)
        in_a_process(make_rest, run)
        for name in arguments.steps:
            if name != "filter":
                figures |= measured(name, run)
        figures["samples"] = read_facts(run, SHARDS)["counts"]["kept"]["items"]
        figures["small_inspect_s"] = small_inspect_s(str(Path(folder) / "small"))
    goals_s = {name: TRACE_GOAL_S if name == "trace" else GOAL_S for name in ("filter", *arguments.steps)}
    ratios = {
        "most_memory_vs_goal": max(value for name, value in figures.items() if name.endswith("_gib")) / GOAL_GIB,
        "most_seconds_vs_goal": max(figures[f"{name}_s"] / goal_s for name, goal_s in goals_s.items()),
    }
    if arguments.json:
        print(json.dumps({"ratios": ratios, "figures": figures, "machine": machine()}))
        return
    for name, value in {**figures, **ratios}.items():
        print(f"{name:28} {value:.6g}")


def in_a_process(function: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measured(step: str, run: str) -> dict[str, float]:
    seconds, cpu_s, gib = in_a_process(_measure, step, run)
    print(f"{step:10} {seconds:7.1f} s, of a core {cpu_s:7.1f} s, {gib:6.3f} GiB", file=sys.stderr, flush=True)
    return {f"{step}_s": seconds, f"{step}_cpu_s": cpu_s, f"{step}_gib": gib}


def _measure(step: str, run: str) -> tuple[float, float, float]:
    for module in STEPS[step]:
        importlib.import_module(module)
    before_gib, begin, cpu_begin = memory_gib("VmRSS"), time.perf_counter(), time.process_time()
    WORK[step](run)
    return time.perf_counter() - begin, time.process_time() - cpu_begin, memory_gib("VmHWM") - before_gib


def memory_gib(field: str) -> float:
    """A line of this process's status: memory now (VmRSS) or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**20


def small_inspect_s(run: str) -> float:
    """The whole command, as a user waits for it, on a small run."""
    in_a_process(make_manifest, run, SMALL_SCALE)
    in_a_process(do_filter, run)
    in_a_process(make_rest, run)
    command = [sys.executable, "-m", "jobs", "inspect", run]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[1])
    return time.perf_counter() - begin


def make_manifest(run: str, scale: float) -> None:
    """The first stage, as if finished."""
    count = round(RECORDINGS * scale)
    config = {"corpora": [{"root": f"/speech/{name}", "name": name} for name in CORPORA]}
    stage = Stage(run, MANIFEST, config, {})
    with stage.begin():
        edges = np.linspace(0, count, len(CORPORA) + 1).astype(int)
        uris = [storage.join(run, MANIFEST, f"{name}.parquet") for name in CORPORA]
        for uri, start, end in zip(uris, edges[:-1], edges[1:], strict=True):
            groups = (
                recordings(uri.rpartition("/")[2].removesuffix(".parquet"), first, min(first + 100_000, end))
                for first in range(start, end, 100_000)
            )
            storage.write_bytes(uri, parquet.groups_to_bytes(groups, RECORDING_SCHEMA))
        tally = Tally(count, count * SEGMENTS_PER_RECORDING * SEGMENT_S / 3600)
        kinds = dict.fromkeys(CORPORA, "folder")
        stage.finish(StageCounts.of(tally, tally, []), [], digest_of_files(uris), kinds=kinds)


def recordings(corpus: str, start: int, end: int) -> pa.Table:
    count = end - start
    ids = [f"{corpus}/{number // 1000:05d}/{number:07d}.flac" for number in range(start, end)]
    columns = {
        "recording_id": ids,
        "corpus": [corpus] * count,
        "uri": [f"/speech/{id}" for id in ids],
        "duration_s": [SEGMENTS_PER_RECORDING * SEGMENT_S] * count,
        "sample_rate_hz": [16_000] * count,
        "num_channels": [1] * count,
        "language": ["en"] * count,
        "language_source": ["corpus"] * count,
        "speaker": [f"{corpus}/{number // RECORDINGS_PER_SPEAKER}" for number in range(start, end)],
    }
    return pa.table(
        {field.name: pa.array(columns.get(field.name, [None] * count), field.type) for field in RECORDING_SCHEMA},
        schema=RECORDING_SCHEMA,
    )


def make_rest(run: str) -> None:
    """Segments, a codebook, units without parts, and shards with empty tars, as if finished."""
    ids, uris = [], []
    for name in CORPORA:
        table = parquet.read(storage.join(run, MANIFEST, f"{name}.parquet"), ["recording_id", "uri"])
        ids += table["recording_id"].to_pylist()
        uris += table["uri"].to_pylist()
    count = len(ids) * SEGMENTS_PER_RECORDING
    hours = count * SEGMENT_S / 3600
    stage = Stage(run, SEGMENTS, {"min_s": 2.0, "max_s": 25.0}, inputs_of(run, MANIFEST, LANGUAGE))
    with stage.begin():
        uri = storage.join(run, SEGMENTS, "segments.parquet")
        storage.write_bytes(uri, parquet.groups_to_bytes(segments(ids, uris), SEGMENT_SCHEMA))
        tally = Tally(len(ids), hours)
        stage.finish(StageCounts.of(tally, tally, []), [], digest_of_files([uri]), segments=count)
    tally = Tally(count, hours)
    encoder = {"name": "hubert", "fingerprint": "e", "frame_rate_hz": 25, "layer": 11, "path": None}
    book = codebook.save(storage.join(run, CODEBOOK), np.eye(NUM_UNITS, dtype=np.float32), {"encoder": encoder})
    stage = Stage(run, UNITS, {}, inputs_of(run, SEGMENTS))
    with stage.begin():
        parquet.write(storage.join(run, UNITS, "part-audiobooks-0000000.parquet"), UNITS_SCHEMA.empty_table())
        rates = {"num_units": 1, "num_frames": 1, "units_per_hour_before": 90_000.0, "units_per_hour": 60_000.0}
        stage.finish(StageCounts.of(tally, tally, []), [], digest(book.fingerprint), **rates)
    stage = Stage(run, SHARDS, {}, inputs_of(run, UNITS))
    with stage.begin():
        make_shards(storage.join(run, SHARDS), ids, book)
        stage.finish(StageCounts.of(tally, tally, []), [], open_dataset(stage.uri).fingerprint)


def inputs_of(run: str, *names: str) -> dict[str, str]:
    return {name: fingerprint_of(run, name) for name in names}


def segment_id(recording_id: str, number: int) -> str:
    start_ms = number * SEGMENT_S * 1000
    return f"{recording_id}#{start_ms:08.0f}-{start_ms + SEGMENT_S * 1000:08.0f}"


def segments(ids: list[str], uris: list[str]) -> Iterator[pa.Table]:
    per_group = SEGMENTS_PER_CHUNK * 1_300
    for first in range(0, len(ids) * SEGMENTS_PER_RECORDING, per_group):
        numbers = np.arange(first, min(first + per_group, len(ids) * SEGMENTS_PER_RECORDING))
        recording, number = np.divmod(numbers, SEGMENTS_PER_RECORDING)
        pairs = list(zip(recording.tolist(), number.tolist(), strict=True))
        columns = {
            "segment_id": [segment_id(ids[r], n) for r, n in pairs],
            "recording_id": [ids[r] for r, _ in pairs],
            "start_s": number * SEGMENT_S,
            "end_s": (number + 1) * SEGMENT_S,
            "work_unit": [f"chunk-{chunk:07d}" for chunk in (numbers // SEGMENTS_PER_CHUNK).tolist()],
            "uri": [uris[r] for r, _ in pairs],
            "channel": pa.nulls(len(pairs), pa.int16()),
            "reads_on_s": pa.nulls(len(pairs), pa.float64()),
        }
        yield pa.table(columns, schema=SEGMENT_SCHEMA)


def make_shards(uri: str, ids: list[str], book: codebook.Codebook) -> None:
    """A manifest with a row per segment, shuffled within each split, and tars of the right length with nothing in."""
    generator = np.random.default_rng(0)
    speakers = np.arange(len(ids)) // RECORDINGS_PER_SPEAKER
    is_validation = speakers % round(1 / VALIDATION_SPEAKERS) == 0
    shards: list[dict[str, Any]] = []
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    unit_counts = {split: np.zeros(NUM_UNITS, np.int64) for split in ("train", "validation")}

    def tables() -> Iterator[pa.Table]:
        for split, chosen in (("train", ~is_validation), ("validation", is_validation)):
            numbers = (
                np.flatnonzero(chosen)[:, None] * SEGMENTS_PER_RECORDING + np.arange(SEGMENTS_PER_RECORDING)
            ).reshape(-1)
            generator.shuffle(numbers)
            for first in range(0, len(numbers), SAMPLES_PER_SHARD):
                path = f"{split}/{split}-{first // SAMPLES_PER_SHARD:06d}.tar"
                here = numbers[first : first + SAMPLES_PER_SHARD]
                table, num_bytes = shard(path, split, here, ids, generator)
                shards.append(described(uri, path, table, num_bytes))
                add_totals(totals, table, split)
                unit_counts[split] += table["num_units"].to_numpy().sum() // NUM_UNITS
                yield table

    info = {
        "num_units": NUM_UNITS,
        "frame_rate_hz": 25,
        "encoder": book.facts["encoder"],
        "codebook": {"fingerprint": book.fingerprint},
        "shards": shards,
        "totals": [],
        "languages": {},
        "unit_counts": {},
    }

    def described_at_last() -> Iterator[pa.Table]:
        yield from tables()
        info["totals"] += totals.values()
        hours = sum(total["hours"] for total in totals.values())
        info["languages"]["en"] = {"num_samples": len(ids) * SEGMENTS_PER_RECORDING, "hours": hours}
        info["unit_counts"] |= {split: counts.tolist() for split, counts in unit_counts.items()}

    write_index(uri, info, described_at_last())


def shard(
    path: str, split: str, numbers: NDArray[np.int64], ids: list[str], generator: np.random.Generator
) -> tuple[pa.Table, int]:
    """The manifest's rows of one shard, and the length of its tar."""
    count = len(numbers)
    num_units = generator.integers(100, FRAMES_PER_SEGMENT, count).astype(np.int32)
    # Of each sample three headers, the text within a block, and two arrays of 128 bytes and its units.
    array_bytes = -(-(128 + 2 * num_units.astype(np.int64)) // BLOCK_BYTES) * BLOCK_BYTES
    ends = np.cumsum(4 * BLOCK_BYTES + 2 * array_bytes)
    recording, number = np.divmod(numbers, SEGMENTS_PER_RECORDING)
    segment_ids = [segment_id(ids[r], n) for r, n in zip(recording.tolist(), number.tolist(), strict=True)]
    hashes = [n * HASH_FACTOR % 2**64 for n in numbers.tolist()]
    corpora = [id.partition("/")[0] for id in segment_ids]
    columns = {
        "key": [
            f"{id.translate(PLAIN)[-60:]}-{hash:016x}".lstrip("-") for id, hash in zip(segment_ids, hashes, strict=True)
        ],
        "shard": [path] * count,
        "index": np.arange(count, dtype=np.int32),
        "offset": ends - (4 * BLOCK_BYTES + 2 * array_bytes),
        "units_offset": ends - array_bytes + 128,
        "num_units": num_units,
        "num_frames": np.full(count, FRAMES_PER_SEGMENT, np.int32),
        "duration_s": np.full(count, SEGMENT_S),
        "corpus": corpora,
        "speaker": [
            f"{corpus}/{r // RECORDINGS_PER_SPEAKER}" for corpus, r in zip(corpora, recording.tolist(), strict=True)
        ],
        "split": [split] * count,
        "segment_id": segment_ids,
        # The tars are empty: these say nothing, and are as many different numbers as true ones.
        **{name: generator.integers(0, 2**32, count, np.uint32) for name in SAMPLE_CHECKSUMS},
    }
    return pa.table(columns, schema=SAMPLE_SCHEMA), int(ends[-1]) + 2 * BLOCK_BYTES


PLAIN = str.maketrans(dict.fromkeys("/.#", "-"))


def described(uri: str, path: str, table: pa.Table, num_bytes: int) -> dict[str, Any]:
    tar = Path(uri, path)
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tar.open("wb") as file:
        file.truncate(num_bytes)
    sums = {name: int(table[name].to_numpy().sum(dtype=np.int64)) for name in ("num_units", "num_frames")}
    return {"path": path, "sha256": "0" * 64, "num_bytes": num_bytes, "num_samples": len(table), **sums}


def add_totals(totals: dict[tuple[str, str], dict[str, Any]], table: pa.Table, split: str) -> None:
    sums = table.group_by("corpus").aggregate([("num_units", "sum"), ("num_frames", "sum"), ("num_units", "count")])
    for row in sums.to_pylist():
        total = totals.setdefault(
            (row["corpus"], split),
            {"corpus": row["corpus"], "split": split, "num_samples": 0, "num_units": 0, "num_frames": 0, "hours": 0.0},
        )
        total["num_samples"] += row["num_units_count"]
        total["num_units"] += row["num_units_sum"]
        total["num_frames"] += row["num_frames_sum"]
        total["hours"] += row["num_units_count"] * SEGMENT_S / 3600


def do_filter(run: str) -> None:
    from pipeline.language.config import LanguageConfig
    from pipeline.language.filter import filter_languages
    from pipeline.work.cluster import ClusterConfig

    filter_languages(run, LanguageConfig(), ClusterConfig(), silently)


def do_inspect(run: str) -> None:
    from pipeline.inspection.describe import describe
    from pipeline.inspection.text import as_text

    as_text({"path": run, "kind": "run", **describe(run, "run")})


def do_verify(run: str) -> None:
    from pipeline.inspection.verify import verify

    violations = list(verify(run, "run", checksums=False))
    assert not violations, violations[:3]


def do_report(run: str) -> None:
    from pipeline.report.config import ReportConfig
    from pipeline.report.report import write_report

    write_report(run, storage.join(run, "report"), [], storage.join(run, "speech"), ReportConfig(), silently)


def do_pick(run: str) -> None:
    from pipeline.shards import Sample, first_sample
    from pipeline.speaking.dataset import SpeechDataset

    dataset = open_dataset(storage.join(run, SHARDS))
    row = first_sample(dataset, "validation", 3.0)
    facts = [row[name] for name in ("key", "segment_id", "corpus", "speaker")]
    one_unit = np.ones(1, np.uint16)
    sample = Sample(*facts, None, row["split"], 0.0, row["duration_s"], one_unit, one_unit)
    assert SpeechDataset(dataset, run).spans_of(sample)


def do_train(run: str) -> None:
    from model.lm.loader import TrainingBatches
    from model.lm.samples import UnitSamples
    from model.lm.vocab import Vocabulary

    dataset = open_dataset(storage.join(run, SHARDS))
    train, _ = (UnitSamples(dataset, split, MAX_UNITS) for split in ("train", "validation"))
    assert train.told_unit_counts() is not None, "unigram counts would be counted in the tars"
    batches = TrainingBatches(train, Vocabulary.of_dataset(dataset), batch_size=64, num_micro_batches=1, seed=0)
    batches.sample_indices(10_000)


def do_speakers(run: str) -> None:
    from model.lm.confidence import speakers_of
    from model.lm.samples import UnitSamples

    speakers_of(UnitSamples(open_dataset(storage.join(run, SHARDS)), "validation", MAX_UNITS))


def do_trace(run: str) -> None:
    from pipeline.tracing.text import as_text
    from pipeline.tracing.trace import trace

    with parquet.RowGroups(storage.join(run, SHARDS, "manifest.parquet"), ["key"]) as groups:
        key = groups.read(len(groups) - 1)["key"][-2].as_py()
    traced = trace(run, key)
    assert traced["segments"][0]["sample"]["key"] == key, as_text(traced)


WORK = {
    "filter": do_filter,
    "inspect": do_inspect,
    "verify": do_verify,
    "report": do_report,
    "pick": do_pick,
    "train": do_train,
    "speakers": do_speakers,
    "trace": do_trace,
}


def silently(done: int, total: int, noun: str, detail: str = "") -> None:
    """Reports nothing."""


if __name__ == "__main__":
    main()
