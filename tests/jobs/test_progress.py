"""Progress as shown to users: the estimate of the time left, and its format."""

from __future__ import annotations

import io
import sys

import pytest

from jobs.progress import TimeLeft, as_time, progress


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3_569, "59 min"),
        (3_571, "1:00 h"),
        (11_100, "3:05 h"),
        (7 * 24 * 3600, "168:00 h"),
    ],
)
def test_long_times_are_in_hours_and_minutes(duration_s: float, expected: str) -> None:
    assert as_time(duration_s) == expected


def test_time_left_counts_neither_start_up_nor_what_was_done_before() -> None:
    left = TimeLeft()
    assert left.after(10, 20, now_s=0.0) is None
    assert left.after(10, 20, now_s=100.0) is None, "nothing is finished yet"
    assert left.after(11, 20, now_s=1_000.0) is None, "one alone tells no pace"
    assert left.after(13, 20, now_s=1_004.0) == 14.0, "seven are left, at two seconds each"
    assert left.after(20, 20, now_s=1_018.0) == 0.0


def test_each_thing_that_a_command_counts_has_a_pace_of_its_own() -> None:
    left = TimeLeft()
    for second in range(5):
        left.after(20 * (second + 1), 100, now_s=float(second))
    assert left.after(1, 40, now_s=10.0) is None, "forty others are counted now"
    assert left.after(2, 40, now_s=20.0) is None
    assert left.after(3, 40, now_s=30.0) == 370.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_leaves_room_for_its_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "110")
    with progress("units") as report:
        for done in range(6):
            report(done, 5, "chunks", "0.17 of 0.30 h at 41 h/h, decode 15% encode 85% commit 0%")
    lines = terminal.getvalue().split("\r")
    assert any("commit 0%" in line for line in lines), lines


def test_where_there_is_no_terminal_it_writes_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr("jobs.progress.LINE_EVERY_S", 0.0)
    with progress("units") as report:
        report(0, 1_000, "chunks")
        report(1, 1_000, "chunks", "41 h/h")
    assert log.getvalue().splitlines() == ["units      0 of 1,000 chunks", "units      1 of 1,000 chunks, 41 h/h"]
