"""What Ray costs: tokenization through the pipeline compared with a plain loop over the same functions; and its memory.

    python benchmarks/pipeline.py [--quick] [--json]

1. Throughput: 64 chunks of speech, read from FLAC, with the embedded tokenizer. The loop decodes, encodes and commits
   one chunk after another in one process and thread; the pipeline does so with one actor. The pipeline's throughput is
   measured between its first and last commit; the time before the first commit, less the chunk's own time, is start-up.
2. Memory: chunks with over 50 MB of audio each go through an object store of 2 GiB, with an encoder that does next to
   nothing, so that audio piles up if it can. Reported are the peaks of the driver and of the largest worker (anonymous
   memory) and of the object store, with 20 and with 200 chunks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from benchmarks.processes import family, memory_gib, title
from model.encoder.config import EncoderConfig
from pipeline.audio.read import read_clips
from pipeline.files import parquet, storage
from pipeline.synthetic.espeak import synthesize
from pipeline.units import codebook
from pipeline.units.tokenize import Tokenize, _all_dropped
from pipeline.work import dataflow
from pipeline.work.cluster import ClusterConfig
from pipeline.work.plan import WorkPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.audio.read import AudioError, Clip
    from pipeline.work.plan import Chunk

EMBEDDED = Path(__file__).resolve().parents[1] / "model" / "embedded"
ENCODER = EncoderConfig(name="hubert", path="hubert-tiny-25hz", layer=3, device="cpu")
TEXT = "The quiet harbour slept while boats came in. Nobody had told them of the storm, or so they said. "
FILE_MINUTES = 15
SEGMENT_S = 15.0
OBJECT_STORE_BYTES = 2 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short chunks, and 60 in place of 200: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])  # of Ray's workers
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_speech(folder / "speech.flac")
        figures = throughput(folder, minutes=1.0 if arguments.quick else 10.0)
        few, many = (8, 24) if arguments.quick else (20, 200)
        for count in (few, many):
            for what, mib in in_a_process(memory, folder, count).items():
                figures[f"{what}_mib_of_{count}_units"] = mib
    ratios = {"vs_plain_loop": figures["pipeline_hours_per_hour"] / figures["loop_hours_per_hour"]}
    for what in ("driver", "largest_worker", "object_store"):
        ratios[f"{what}_growth"] = figures[f"{what}_mib_of_{many}_units"] / figures[f"{what}_mib_of_{few}_units"]
    if arguments.json:
        print(json.dumps({"ratios": ratios, "figures": figures, "machine": machine()}))
        return
    for name, value in {**ratios, **figures}.items():
        print(f"{name:36} {value:.6g}")


def write_speech(path: Path) -> None:
    """Speech at 16 kHz, with a little noise so that it compresses as recorded speech does."""
    spoken = np.concatenate([synthesize(TEXT, "en-us", pitch=30 + 5 * number)[0] for number in range(6)])
    wav = np.resize(spoken.astype(np.float32) / 2**15, FILE_MINUTES * 60 * 16_000)
    wav += 0.003 * np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)
    soundfile.write(path, wav, 16_000)


def plan(path: Path, num_chunks: int, minutes: float, segment_s: float) -> WorkPlan:
    """Chunks of neighbouring segments; each chunk begins elsewhere in the file."""
    rows = []
    for number in range(num_chunks):
        offset_s = (number * 7.0) % (FILE_MINUTES * 60 - minutes * 60 + 1)
        edges = np.arange(offset_s, offset_s + minutes * 60 - segment_s + 0.001, segment_s)
        for start_s in edges.tolist():
            name = f"speech-{number:07d}"
            times = {"start_s": start_s, "end_s": start_s + segment_s}
            rows.append({"work_unit": name, "id": f"{name}/a#{start_s}", "uri": str(path), "channel": None, **times})
    texts, numbers = ("work_unit", "id", "uri"), ("start_s", "end_s")
    schema = pa.schema(
        [*((name, pa.string()) for name in texts), ("channel", pa.int32()), *((name, pa.float64()) for name in numbers)]
    )
    return WorkPlan.of(pa.Table.from_pylist(rows, schema=schema), "id")


def throughput(folder: Path, minutes: float) -> dict[str, float]:
    """Measures hours of audio per hour of both, and the pipeline's start-up in seconds."""
    work = plan(folder / "speech.flac", 64, minutes, SEGMENT_S)
    arguments = {"encoder": ENCODER, "codebook_uri": str(EMBEDDED / "hubert-tiny-25hz-km100")}
    assert codebook.load(arguments["codebook_uri"]).codebook_size == 100

    process = Tokenize(**arguments)  # type: ignore[arg-type]
    loop_parts = str(folder / "loop")
    began = time.perf_counter()
    for chunk in work:
        part = parquet.to_bytes(process(chunk, list(read_clips(chunk.spans))))
        storage.put_if_absent(dataflow.part_uri(loop_parts, chunk.name), part)
    loop_s = time.perf_counter() - began

    parts = str(folder / "pipeline")
    began_at = time.time()
    dataflow.run_chunks(work, parts, Tokenize, arguments, _all_dropped, ClusterConfig(max_actors=1), silently)
    committed = sorted(path.stat().st_mtime for path in Path(parts).glob("part-*"))
    for path in Path(parts).glob("part-*"):
        assert path.read_bytes() == (Path(loop_parts) / path.name).read_bytes(), f"{path.name} differs"
    per_unit_s = (committed[-1] - committed[0]) / (len(committed) - 1)
    unit_hours = float(work.durations_s.mean()) / 3600
    return {
        "chunks": len(work),
        "minutes_per_unit": minutes,
        "loop_s_per_unit": loop_s / len(work),
        "pipeline_s_per_unit": per_unit_s,
        "loop_hours_per_hour": unit_hours * 3600 / (loop_s / len(work)),
        "pipeline_hours_per_hour": unit_hours * 3600 / per_unit_s,
        "startup_s": committed[0] - began_at - per_unit_s,
    }


class Listen:
    """Stands in for an encoder, and takes almost no time."""

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        time.sleep(0.2)
        return pa.table(
            {"id": chunk.ids, "num_samples": [len(clip.wav) for clip in clips], "drop_reason": pa.nulls(len(clips))}
        )  # type: ignore[arg-type]


def memory(folder: Path, num_chunks: int) -> dict[str, float]:
    """Peak MiB of the driver, the largest worker and the object store while chunks of 55 MB pass through."""
    import ray

    from benchmarks.pipeline import Listen  # by the name that Ray's workers find it under

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    work = plan(folder / "speech.flac", num_chunks, 14.4, 864.0)
    peaks: defaultdict[str, float] = defaultdict(float)
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(peaks, done))
    watcher.start()
    try:
        dataflow.run_chunks(
            work, str(folder / f"memory-{num_chunks}"), Listen, {}, _all_dropped, ClusterConfig(max_actors=1), silently
        )
    finally:
        done.set()
        watcher.join()
        ray.shutdown()
    return dict(peaks)


def watch(peaks: dict[str, float], done: threading.Event) -> None:
    """Records peak memory of this run's processes and of the object store, sampled a few times a second."""
    import ray

    while not done.wait(0.2):
        free = ray.available_resources().get("object_store_memory", OBJECT_STORE_BYTES)
        peaks["object_store"] = max(peaks["object_store"], (OBJECT_STORE_BYTES - free) / 2**20)
        for pid in family(os.getpid()):
            if pid == os.getpid() or title(pid).startswith("ray::"):
                name = "driver" if pid == os.getpid() else "largest_worker"
                peaks[name] = max(peaks[name], 1024 * memory_gib(pid, "Anonymous"))


def in_a_process(function: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Runs a function in a fresh process, with nothing else in memory; returns its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def silently(done: int, total: int, noun: str, detail: str = "") -> None:
    """Reports nothing."""


if __name__ == "__main__":
    main()
