"""Listing a corpus: files per second, cold and warm, and memory, compared with a loop over soundfile.info.

    python benchmarks/manifest.py [--files 100000] [--folder DIR] [--quick] [--json]

1. probe: a folder of FLAC files whose headers must be read, in turns by the functions behind `twist manifest` (threads,
   then Ray) and by the loop that users would write. Cold means that the files' contents are dropped from the page cache
   first (names and inodes stay).
2. stated: a Common Voice release with as many clips, whose table states their durations, so no file is opened.
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
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.files import storage
from pipeline.stage import read_facts

QUICK_FILES = 4_000
FILES_PER_FOLDER = 1_000
CLIP_S = 0.1
# The loop is given a share of the files, and its speed is per file.
MOST_FILES_OF_LOOP = 20_000
MILLION = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="files in each corpus")
    parser.add_argument("--folder", type=Path, help="where to write them (a temporary folder)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FILES:,} files")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    num_files = QUICK_FILES if arguments.quick else arguments.files
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = measure(Path(folder), num_files)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:<34} {value:,.2f}")
    print(result["machine"])


def measure(folder: Path, num_files: int) -> dict[str, Any]:
    """Measures all figures; returns them with ratios and the machine."""
    write_flacs(folder / "flac", num_files)
    write_common_voice(folder / "cv", num_files)
    paths = [folder / "flac" / name for name in storage.list_files(str(folder / "flac"))]
    rates: dict[str, float] = {}
    for state in ("cold", "warm"):
        some = paths[:MOST_FILES_OF_LOOP]
        drop_pages(some if state == "cold" else [])
        began = time.perf_counter()
        for path in some:
            soundfile.info(str(path))
        rates[f"loop_{state}"] = len(some) / (time.perf_counter() - began)
        drop_pages(paths if state == "cold" else [])
        rates[f"probe_{state}"], memory = manifest(folder, f"probe-{state}", "flac", "folder", num_files)
    drop_pages([])
    rates["stated"], memory_stated = manifest(folder, "stated", "cv", "common_voice", num_files)
    minutes = {f"minutes_for_a_million_{name}": MILLION / rate / 60 for name, rate in rates.items()}
    return {
        "ratios": {
            "vs_soundfile_loop_cold": rates["probe_cold"] / rates["loop_cold"],
            "vs_soundfile_loop_warm": rates["probe_warm"] / rates["loop_warm"],
        },
        "figures": {
            "files": num_files,
            **{f"files_per_s_{name}": rate for name, rate in rates.items()},
            **minutes,
            "peak_gib_probe": memory,
            "peak_gib_stated": memory_stated,
        },
        "machine": machine(soundfile=soundfile.__version__, cores=os.cpu_count()),
    }


def write_flacs(root: Path, num_files: int) -> None:
    """Writes files of noise, a thousand per folder."""
    generator = np.random.default_rng(0)
    soundfile.write(root.with_suffix(".flac"), 0.1 * generator.standard_normal(round(CLIP_S * 16_000)), 16_000)
    content = root.with_suffix(".flac").read_bytes()
    for number in range(num_files):
        folder = root / f"{number // FILES_PER_FOLDER:05d}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:08d}.flac").write_bytes(content)


def write_common_voice(root: Path, num_files: int) -> None:
    """Writes a Common Voice release whose clips are empty files: nothing opens them."""
    clips = root / "en" / "clips"
    clips.mkdir(parents=True)
    names = [f"common_voice_en_{number:08d}.mp3" for number in range(num_files)]
    for name in names:
        (clips / name).touch()
    rows = "".join(
        f"client{n % 5000}\t{name}\tA sentence that somebody has read.\ten\n" for n, name in enumerate(names)
    )
    (root / "en" / "validated.tsv").write_text(f"client_id\tpath\tsentence\tlocale\n{rows}")
    durations = "".join(f"{name}\t5000\n" for name in names)
    (root / "en" / "clip_durations.tsv").write_text(f"clip\tduration[ms]\n{durations}")


def drop_pages(paths: list[Path]) -> None:
    """Drops the files' contents from the page cache."""
    os.sync()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def manifest(folder: Path, run: str, root: str, kind: str, num_files: int) -> tuple[float, float]:
    """Files per second and peak memory in GiB of listing a corpus, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_manifest, args=(str(folder / run), str(folder / root), kind, queue))
    process.start()
    seconds, peak_gib = queue.get()
    process.join()
    kept = read_facts(str(folder / run), "manifest")["counts"]["kept"]["items"]
    assert kept == num_files, f"{kept} of {num_files} files were kept"
    return num_files / seconds, peak_gib


def _manifest(run: str, root: str, kind: Any, queue: Any) -> None:
    began = time.perf_counter()
    make_manifest(run, [CorpusConfig(root, kind, "c")], lambda *_: None)
    seconds = time.perf_counter() - began
    queue.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


if __name__ == "__main__":
    main()
