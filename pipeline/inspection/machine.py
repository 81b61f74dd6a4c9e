"""Whether this machine has what the pipeline needs, and what to do where it does not.

Each check answers by itself, also where another one found something broken: nothing is imported here but Python's own
library. torch and Ray, which may be installed and yet unable to start, are tried in processes of their own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import RunError, TwistError
from pipeline.files import machine_cache, s3, storage
from pipeline.work.memory import GIB, memory_bytes

DISTRIBUTION = "twist-pipeline"
STARTING_TAKES_AT_MOST_S = 120.0
# Below the first figure the small demo fails, below the second one a real run might.
MEMORY_GIB = 2.0, 8.0
DISK_GIB = 1.0, 20.0
SHARED_MEMORY_GIB = 2.0
OPEN_FILES = 4_096
# From 15 minutes on S3 refuses requests.
CLOCK_S = 60.0, 900.0
FORMATS = ("WAV", "FLAC", "OGG", "MP3")
CODECS = ("aac", "alac", "amrnb", "mp3", "opus", "wmav2")

Program = str
TORCH: Program = """
import json, torch
devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda,
                  "devices": [[device.name, device.total_memory] for device in devices]}))
"""
RAY: Program = """
import json
from pipeline.work.cluster import resources
print(json.dumps(resources()))
"""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        what: The thing that was checked.
        state: ok; note: works, but read it; broken: something that is needed does not work.
        told: What was found.
        remedy: What to do; empty if nothing.
    """

    what: str
    state: Literal["ok", "note", "broken"]
    told: str
    remedy: str = ""


def examine(run: str | None = None, corpora: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Checks this machine.

    Args:
        run: A run's folder, absolute or on S3, which must be writable.
        corpora: Folders that must be readable.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        *(_python, _packages, _torch, _ray, _codecs, _cores_and_memory, _shared_memory, _open_files),
        lambda: _disk(run),
        lambda: _folder_of_run(run),
        *(lambda uri=uri: _corpus(uri) for uri in corpora),
        lambda: _clock([uri for uri in (run, *corpora) if uri and storage.is_s3(uri)]),
    ]
    for check in checks:
        yield from check()


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 - run from a checkout, it may be
        yield Finding("Python", "broken", f"{version} is too old", "make a new environment with Python 3.11 or later")
    else:
        yield Finding("Python", "ok", f"{version} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    """Whether what pyproject.toml asks for is installed, at least as new as it says."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "broken", f"{DISTRIBUTION} is not installed", "make setup, in the checkout")
        return
    wanted = [each for each in requirements if each.marker is None or each.marker.evaluate()]
    wrong = [told for each in wanted if (told := _unmet(each))]
    for told in wrong:
        yield Finding("packages", "broken", told, "make setup, or pip install -c constraints.txt -e .")
    if not wrong:
        yield Finding("packages", "ok", f"{len(wanted)} are installed, and new enough")


def _unmet(requirement: Any) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, and must be {requirement.specifier}"


def _torch() -> Iterator[Finding]:
    told = _answer_of(TORCH)
    if isinstance(told, str):
        remedy = "pip install --force-reinstall -c constraints.txt torch; `inspect` and `recipe` work without it"
        yield Finding("torch", "broken", told, remedy)
        return
    build = f"built for CUDA {told['cuda']}" if told["cuda"] else "built for cores alone"
    yield Finding("torch", "ok", f"{told['version']}, {build}")
    devices = [f"{name} with {memory / GIB:.0f} GiB" for name, memory in told["devices"]]
    if devices:
        yield Finding("GPU", "ok", ", ".join(devices))
    elif shutil.which("nvidia-smi"):
        remedy = "compare the driver in nvidia-smi with torch's CUDA, or install a torch built for CUDA (pytorch.org)"
        yield Finding("GPU", "note", "nvidia-smi is here, but torch finds no GPU", remedy)
    else:
        yield Finding("GPU", "note", "none: encoding and training run on cores", "")


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    told = _answer_of(RAY)
    where = f"the cluster at {address}" if address else "this machine"
    if isinstance(told, str):
        remedy = "see `ray status`, or unset RAY_ADDRESS" if address else "look into /tmp/ray/session_latest/logs"
        yield Finding("Ray", "broken", f"{where} does not answer: {told}", remedy)
        return
    yield Finding("Ray", "ok", f"{where}: {told.get('CPU', 0):g} cores, {told.get('GPU', 0):g} GPUs")


def _codecs() -> Iterator[Finding]:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        yield Finding("libsndfile", "broken", _one_line(error), "pip install --force-reinstall soundfile")
    else:
        missing = [name for name in FORMATS if name not in soundfile.available_formats()]
        version = f"{soundfile.__libsndfile_version__}"
        if missing:
            told = f"{version} cannot read {', '.join(missing)}"
            yield Finding("libsndfile", "broken", told, "pip install --force-reinstall soundfile, whose wheel can")
        else:
            yield Finding("libsndfile", "ok", f"{version}: {', '.join(FORMATS)} and {_others(soundfile)} more")
    try:
        import av
    except (ImportError, OSError) as error:
        yield Finding("PyAV", "broken", _one_line(error), "pip install --force-reinstall -c constraints.txt av")
        return
    missing = [name for name in CODECS if name not in av.codecs_available]
    if missing:
        told = f"{av.__version__} cannot decode {', '.join(missing)}"
        yield Finding("PyAV", "note", told, "pip install --force-reinstall av, whose wheel can")
    else:
        yield Finding("PyAV", "ok", f"{av.__version__}: {', '.join(CODECS)}")


def _others(soundfile: Any) -> int:
    return len(soundfile.available_formats()) - len(FORMATS)


def _cores_and_memory() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", "ok", f"{cores}")
    memory_gib = memory_bytes() / GIB
    yield _enough("memory", memory_gib, MEMORY_GIB, "GiB", "take a machine, or give the container, more")


def _shared_memory() -> Iterator[Finding]:
    """Where Ray keeps decoded audio; without enough of it, Ray takes the disk."""
    if not Path("/dev/shm").is_dir():
        return
    total_gib = shutil.disk_usage("/dev/shm").total / GIB
    if total_gib < SHARED_MEMORY_GIB:
        remedy = "docker run --shm-size=8g; on Kubernetes an emptyDir of medium Memory at /dev/shm"
        yield Finding("/dev/shm", "note", f"{total_gib:.1f} GiB: Ray will keep audio on disk, slowly", remedy)
    else:
        yield Finding("/dev/shm", "ok", f"{total_gib:.1f} GiB")


def _open_files() -> Iterator[Finding]:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < OPEN_FILES:
        told = f"at most {limit:,}; Ray opens several for each worker"
        yield Finding("open files", "note", told, "ulimit -n 65536, before `ray start` or the command")
    else:
        yield Finding("open files", "ok", f"at most {limit:,}")


def _disk(run: str | None) -> Iterator[Finding]:
    folders = {
        "disk of the run": Path(run) if run and not storage.is_s3(run) else Path.cwd(),
        "disk of the cache": machine_cache.cache_folder(),
        "disk of temporaries": Path(tempfile.gettempdir()),
    }
    for what, folder in folders.items():
        there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free_gib = shutil.disk_usage(there).free / GIB
        yield _enough(what, free_gib, DISK_GIB, f"GiB free in {folder}", "make room; docs/hardware.md says how much")


def _folder_of_run(run: str | None) -> Iterator[Finding]:
    if run is None:
        return
    probe = storage.join(run, f"doctor-{secrets.token_hex(6)}")
    try:
        storage.require_conditional_put(run)
        storage.write_bytes(probe, b"doctor")
        found = storage.read_bytes(probe)
        is_listed = probe.rpartition("/")[2] in storage.list_files(run)
        storage.delete(probe)
    except (OSError, TwistError, RunError) as error:
        yield Finding("run", "broken", _one_line(error), _remedy_of(run, "get, put, delete and list"))
        return
    if found != b"doctor" or not is_listed:
        yield Finding("run", "broken", f"{run} does not give back what is written", "take another store")
    else:
        yield Finding("run", "ok", f"{run} can be written, read, listed and deleted from")


def _corpus(uri: str) -> Iterator[Finding]:
    try:
        files = storage.some_files(uri, 1)
        if files:
            storage.read_range(storage.join(uri, files[0]), 0, 1)
    except (OSError, TwistError, RunError) as error:
        yield Finding("corpus", "broken", _one_line(error), _remedy_of(uri, "get and list"))
        return
    if files:
        yield Finding("corpus", "ok", f"{uri} can be listed and read")
    else:
        yield Finding("corpus", "broken", f"{uri} does not exist or is empty", "name the folder that holds the audio")


def _remedy_of(uri: str, rights: str) -> str:
    return f"allow to {rights}: docs/s3.md has the policy" if storage.is_s3(uri) else f"allow this user to {rights}"


def _clock(uris: list[str]) -> Iterator[Finding]:
    """Compared with S3, whose answers tell the time."""
    if not uris:
        yield Finding("clock", "note", "not compared: name a run or corpus on S3 for that")
        return
    try:
        ahead_s = s3.clock_ahead_s(uris[0])
    except (OSError, TwistError, RunError):
        return  # told as the store's
    told = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the store's"
    note, refused = CLOCK_S
    state: Literal["ok", "note", "broken"] = "ok" if abs(ahead_s) < note else "note"
    if abs(ahead_s) >= refused:
        state = "broken"
    yield Finding("clock", state, told, "" if state == "ok" else "switch on NTP: timedatectl set-ntp true")


def _enough(what: str, amount: float, bounds: tuple[float, float], unit: str, remedy: str) -> Finding:
    least, wanted = bounds
    told = f"{amount:,.1f} {unit}"
    if amount >= wanted:
        return Finding(what, "ok", told)
    return Finding(what, "note" if amount >= least else "broken", told, remedy)


def _answer_of(program: Program) -> Any:
    """The JSON that a program prints in a Python of its own, or a sentence on why it does not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=STARTING_TAKES_AT_MOST_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {STARTING_TAKES_AT_MOST_S:.0f} s"
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    told = done.stderr.strip().splitlines()
    return told[-1] if told else f"it ended with status {done.returncode}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
