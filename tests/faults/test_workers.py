"""Workers that are killed at work: no part is lost or written twice, and no chunk is quarantined for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.faults import slow_work
from tests.ray_clusters import MARK, ROOT, processes_with

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.faults]
NUM_UNITS = 12


def start(folder: Path, mark: str, **settings: float) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.slow_work", str(folder), json.dumps(settings)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_those_called(title: str, mark: str, times: int, done: threading.Event) -> int:
    """SIGKILLs processes with this title, one after another; returns how many it killed."""
    killed: set[int] = set()
    while len(killed) < times and not done.is_set():
        for pid, name in processes_with(mark):
            if title in name and pid not in killed:
                time.sleep(0.3)  # so that it is at work
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
                break
        time.sleep(0.05)
    return len(killed)


@pytest.mark.parametrize("title", ["ray::ProcessAndCommit.process", "ray::decode"])
def test_killed_workers_cost_nothing(tmp_path: Path, title: str) -> None:
    slow_work.write_plan(tmp_path, NUM_UNITS, seconds_of_audio=150.0)
    expected = slow_work.expected_outcomes(tmp_path)
    mark = f"{title} {time.time_ns()}"
    work = start(tmp_path, mark, seconds=1.0)
    done = threading.Event()
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_those_called(title, mark, 3, done)))
    killer.start()
    try:
        _, errors = work.communicate(timeout=280)
    finally:
        done.set()
        killer.join()
    assert work.returncode == 0, errors
    assert killed == [3], f"the work was over before {title} could be killed three times"
    assert slow_work.outcomes_of(tmp_path) == expected
    assert json.loads((tmp_path / "work.json").read_text())["dropped"] == {}, (
        "a unit was blamed for the death of its worker"
    )


def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path) -> None:
    slow_work.write_plan(tmp_path, NUM_UNITS, seconds_of_audio=5.0)
    expected = slow_work.expected_outcomes(tmp_path)
    mark = f"driver {time.time_ns()}"
    work = start(tmp_path, mark, seconds=0.5)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "parts").glob("part-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(work.pid, signal.SIGKILL)
    work.communicate()
    committed = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("part-*")}
    assert 3 <= len(committed) < NUM_UNITS, "the driver was killed too early or too late"
    again = start(tmp_path, mark, seconds=0.0)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert slow_work.outcomes_of(tmp_path) == expected
    assert {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in committed} == committed, "done again"
