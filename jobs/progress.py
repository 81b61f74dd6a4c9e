"""Shows progress: a bar on a terminal, otherwise a line every half minute."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

from pipeline.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.progress import ReportProgress

LINE_EVERY_S = 30.0
# A bar of fixed width, so that the rest of the line has room for the count, the time left and the detail.
BAR = "{desc} {percentage:3.0f}% |{bar:16}| {n:,} of {total:,}{unit}{postfix}"


@contextlib.contextmanager
def progress(name: str) -> Iterator[ReportProgress]:
    """Shows progress under `name` during a `with` block; call the yielded function to report it."""
    left = TimeLeft()
    if sys.stderr.isatty():
        with tqdm(desc=f"{name:<10}", bar_format="{desc} starts", dynamic_ncols=True, leave=False) as bar:

            def draw(done: int, total: int, noun: str, detail: str = "") -> None:
                is_first = bar.total is None
                bar.total, bar.unit, bar.bar_format = total, f" {noun}", BAR
                remarks = _remarks(left.after(done, total, time.monotonic()), detail)
                bar.set_postfix_str(remarks, refresh=False)
                bar.update(done - bar.n)
                if is_first:  # later refreshes are left to tqdm, a few a second at most
                    bar.refresh()

            yield draw
        return
    last_line_at = time.monotonic()

    def log(done: int, total: int, noun: str, detail: str = "") -> None:
        nonlocal last_line_at
        now = time.monotonic()
        left_s = left.after(done, total, now)
        if now - last_line_at >= LINE_EVERY_S:
            last_line_at = now
            remarks = _remarks(left_s, detail)
            print(
                f"{name:<10} {done:,} of {total:,} {noun}{', ' if remarks else ''}{remarks}",
                file=sys.stderr,
                flush=True,
            )

    yield log


class TimeLeft:
    """Estimates the time left from the pace since the first item was finished, which leaves out start-up.

    A command may count several things, one after the other: another total, or a count that falls, begins anew.
    """

    def __init__(self) -> None:
        self._begin()
        self._last = 0, 0

    def _begin(self) -> None:
        self._done_before: int | None = None
        self._first: tuple[int, float] | None = None

    def after(self, done: int, total: int, now_s: float) -> float | None:
        """Estimated seconds until `total` items are done, at `now_s` of any clock; None while the pace is unknown."""
        last_done, last_total = self._last
        if done < last_done or total != last_total:
            self._begin()
        self._last = done, total
        if self._done_before is None:
            self._done_before = done  # by earlier commands
        if self._first is None:
            if done > self._done_before:
                self._first = done, now_s
            return None
        first, first_at_s = self._first
        return (now_s - first_at_s) / (done - first) * (total - done) if done > first else None


def as_time(duration_s: float) -> str:
    """Formats a duration: 45 s, 12 min, 3:05 h."""
    if duration_s < 59.5:
        return f"{duration_s:.0f} s"
    minutes = round(duration_s / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def _remarks(left_s: float | None, detail: str) -> str:
    return ", ".join(filter(None, ["" if left_s is None else f"about {as_time(left_s)} left", printable(detail)]))
