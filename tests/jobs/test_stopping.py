"""Commands that get SIGTERM or Ctrl-C: a line, status 128 + signal, nothing left behind; the same command goes on."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import command
from tests.ray_clusters import MARK, ROOT, processes_with

TAKES_AT_MOST_S = 200.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPED = {signal.SIGTERM: "stopped by SIGTERM", signal.SIGINT: "stopped by Ctrl-C"}


class Command:
    """A command in a process and session of its own."""

    def __init__(self, *words: object) -> None:
        self.mark = secrets.token_hex(8)
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def signal_when(self, signum: int, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + TAKES_AT_MOST_S
        while not ready() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.process.poll() is None, self.process.communicate()
        self.process.send_signal(signum)

    def ends(self, signum: int) -> str:
        """Its messages, once it has ended as it should."""
        _, errors = self.process.communicate(timeout=TAKES_AT_MOST_S)
        assert self.process.returncode == 128 + signum, errors
        assert "Traceback" not in errors and "SIGTERM received" not in errors, errors
        assert STOPPED[signal.Signals(signum)] in errors.splitlines()[-1] and "again to go on" in errors, errors
        assert not list(processes_with(self.mark)), "processes were left behind"
        return errors

    def has_started_ray(self) -> bool:
        return any("raylet" in title for _, title in processes_with(self.mark))


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_ends_a_command_in_a_sentence(signum, capsys):
    before = {each: signal.getsignal(each) for each in SIGNALS}
    assert command.guard("work", lambda: os.kill(os.getpid(), signum)) == 128 + signum
    error = capsys.readouterr().err
    assert STOPPED[signum] in error and len(error.splitlines()) == 1
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_library_that_raises_an_interrupt_of_its_own_hides_no_signal(signum, capsys):
    def work() -> None:
        try:
            os.kill(os.getpid(), signum)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    assert command.guard("work", work) == 128 + signum
    assert STOPPED[signum] in capsys.readouterr().err


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_while_a_command_is_loaded(signum, tmp_path):
    stopped = Command("jobs.run", "--run", tmp_path)
    # Its handlers are set as soon as the package is imported.
    caught = 1 << (signal.SIGTERM - 1)

    def has_handlers() -> bool:
        status = Path(f"/proc/{stopped.process.pid}/status").read_text()
        return bool(int(status.split("SigCgt:")[1].split()[0], 16) & caught)

    stopped.signal_when(signum, has_handlers)
    stopped.ends(signum)


def test_a_second_ctrl_c_ends_a_command_at_once():
    code = (
        "import os, signal, time\nfrom jobs import command\n"
        "def work():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(1)\n        print('went on')\n"
        "command.guard('work', work)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and not done.stdout and not done.stderr


def test_a_reader_that_has_closed_its_end_is_no_error():
    code = "from jobs import command\ncommand.guard('show', lambda: print('x' * 10))\n"
    shell = f'{sys.executable} -c "{code}" | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"] and not done.stderr, done.stderr


@pytest.mark.faults
@pytest.mark.xdist_group("faults")
@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("moment", ["ray", "part"])
def test_a_stage_on_ray_is_stopped_and_goes_on(signum, moment, finished_run, finished_copy, twist):
    shutil.rmtree(finished_copy / "units")
    stopped = Command("jobs.tokenize", "--run", finished_copy)
    ready = stopped.has_started_ray if moment == "ray" else lambda: list((finished_copy / "units").glob("part-*"))
    stopped.signal_when(signum, ready)
    stopped.ends(signum)
    twist("tokenize", "--run", finished_copy)
    for part in (finished_run / "units").glob("part-*"):
        assert (finished_copy / "units" / part.name).read_bytes() == part.read_bytes()


@pytest.mark.faults
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_training_saves_first(signum, finished_copy):
    folder = finished_copy / "other"
    options = ("--train.num_steps", 100_000, "--train.schedule", "inverse_sqrt", "--train.checkpoint_every", 100_000)
    options += ("--train.validate_every", 100_000)
    stopped = Command("jobs.train", "--run", finished_copy, "--checkpoints", folder, *options)
    metrics = folder / "metrics.jsonl"
    stopped.signal_when(signum, lambda: metrics.exists() and metrics.read_text().count("lr") > 3)
    errors = stopped.ends(signum)
    (saved,) = [path.name for path in folder.iterdir() if path.name.isdigit()]
    assert f"step {int(saved)} is saved" in errors
