"""A disk that is really full: commands end in a sentence, leave nothing half-written, and go on when there is room.

The disk is a tmpfs, which takes the right to mount one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from jobs.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs.whole_runs import WholeRun

DISK_MIB = 256
PAGE_BYTES = 4096
# Commands by the folder that each makes, in the order of a run.
COMMANDS = {
    "manifest": "manifest",
    "language": "filter",
    "segments": "segment",
    "words": "align",
    "codebook": "codebook",
    "units": "tokenize",
    "text": "pack-text",
    "shards": "pack",
    "checkpoints": "train",
    "preferences": "prepare-preferences",
    "tuned": "tune",
    "vocoder": "train-vocoder",
    "tokenizer": "pretrain-tokenizer",
}
# What tells times, rates and places, or is drawn anew.
TELLS = {"stage.json", "progress.json", "metrics.jsonl", "curve.png", ".lock", "recipe.yaml", "trainer_state.json"}


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    stderr: str


def twist(*arguments: object) -> Ended:
    stderr = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        status = main([str(argument) for argument in arguments])
    return Ended(status, stderr.getvalue())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left_bytes: int) -> Path:
    """Fills a disk but for so many bytes with one file."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - left_bytes))
    return ballast


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in TELLS}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("folder", COMMANDS)
def test_a_full_disk_costs_nothing_but_time(folder: str, whole_run: WholeRun, demo_speech: Path, disk: Path) -> None:
    run = Path(shutil.copytree(whole_run.run, disk / "run"))
    before = contents(run / folder)
    size = sum(-(-len(content) // PAGE_BYTES) * PAGE_BYTES for content in before.values())
    shutil.rmtree(run / folder)
    kept = contents(run)
    command = (COMMANDS[folder], "--config", whole_run.recipe, "--run", run)
    if folder == "manifest":
        command = (*command, "--audio", demo_speech)
    for share_left in (0.0, 0.6):
        ballast = fill(disk, int(share_left * size))
        ended = twist(*command)
        assert ended.status in (1, 2), f"with room for {share_left} it ended with status {ended.status}"
        assert "Traceback" not in ended.stderr
        assert "No space left on device" in ended.stderr and str(run) in ended.stderr, ended.stderr
        left = contents(run)
        assert not [name for name in left if name.endswith(".tmp") or ".saving-" in name]
        assert {name: left.get(name) for name in kept} == kept, "what was there is spoilt"
        made = {name.removeprefix(f"{folder}/"): left[name] for name in left.keys() - kept.keys()}
        # A checkpoint that the finished run has removed since is held to its own list; work files go at the end.
        removed = {name for name in made if name not in before}
        assert {name: before[name] for name in made.keys() - removed} == {
            name: made[name] for name in made.keys() - removed
        }, "something is half-written"
        for name in removed:
            step, _, file = name.rpartition("/")
            if step.isdecimal():
                listed = json.loads(made[f"{step}/checksums.json"])
                assert file == "checksums.json" or listed[file] == hashlib.sha256(made[name]).hexdigest()
        assert not (run / folder / "DONE").exists()
        ballast.unlink()

    ended = twist(*command)
    assert ended.status == 0, ended.stderr
    assert contents(run / folder) == before
