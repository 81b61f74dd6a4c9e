"""Figures of work in progress: rates, shares, the bottleneck, and how they are shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline.files import storage
from pipeline.work.progress import PROGRESS, STALE_AFTER_S, WRITE_EVERY_S, ProgressFile, WorkProgress, read_progress

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_000_000.0


@pytest.fixture
def work() -> WorkProgress:
    """Ten hours of audio: four done by earlier commands, two in the hour since this one began."""
    work = WorkProgress(20, 10.0, num_done_before=8, hours_done_before=4.0, begun_at=NOW - 3600)
    for reason in ("missing", "silent", "missing", "missing"):
        work.add(0.5, {"decode": 1.0, "encode": 6.0, "commit": 1.0}, {reason: 2})
    return work


def test_rates_are_of_this_command_alone(work: WorkProgress) -> None:
    assert (work.num_done, work.hours_done) == (4, 2.0)
    assert work.hours_per_hour(NOW) == pytest.approx(2.0)
    assert work.seconds_left(NOW) == pytest.approx(2 * 3600), "four hours at two an hour"
    assert WorkProgress(1, 1.0, begun_at=NOW).seconds_left(NOW) is None


def test_shares_are_of_all_workers_time(work: WorkProgress) -> None:
    assert work.shares() == pytest.approx({"decode": 1 / 8, "encode": 6 / 8, "commit": 1 / 8})
    assert set(WorkProgress(1, 1.0).shares().values()) == {0.0}


def test_the_step_that_limits_is_the_one_others_wait_for(work: WorkProgress) -> None:
    work.backed_up_s = 5.0
    assert work.limit() == "encode"
    work.starved_s = 6.0
    assert work.limit() == "decode"
    work.starved_s = 0.0
    work.add(0.0, {"commit": 100.0}, {})
    assert work.limit() == "commit"


def test_it_is_told_in_one_line_and_as_json(work: WorkProgress) -> None:
    line = work.as_text(NOW)
    assert line.startswith("6.00 of 10.00 h at 2 h/h, decode 12% encode 75% commit 12%")
    assert line.endswith("dropped 6 missing, 2 silent")
    told = json.loads(json.dumps(work.as_dict(NOW)))
    assert told["dropped"] == {"missing": 6, "silent": 2}
    assert told["summary"] == line


def test_the_file_is_written_now_and_then(work: WorkProgress, tmp_path: Path) -> None:
    file = ProgressFile(str(tmp_path))
    file.write(work, NOW)
    first = (tmp_path / PROGRESS).read_bytes()
    work.add(1.0, {}, {})
    file.write(work, NOW + 1)
    assert (tmp_path / PROGRESS).read_bytes() == first, "a file for each chunk would be a request for each chunk"
    file.write(work, NOW + WRITE_EVERY_S)
    told = read_progress(str(tmp_path), NOW + WRITE_EVERY_S)
    assert told is not None and told["num_done"] == 5 and not told["is_stale"]
    late = read_progress(str(tmp_path), NOW + WRITE_EVERY_S + STALE_AFTER_S + 1)
    assert late is not None and late["is_stale"]
    file.remove()
    assert read_progress(str(tmp_path), NOW) is None


def test_what_cannot_be_told_ends_nothing(work: WorkProgress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_bytes", full)
    ProgressFile(str(tmp_path)).write(work, NOW)
    (tmp_path / PROGRESS).write_text("half of it {")
    assert read_progress(str(tmp_path), NOW) is None
