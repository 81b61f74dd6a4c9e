"""The callback through which a stage reports progress; commands draw it."""

from __future__ import annotations

from typing import Protocol


class ReportProgress(Protocol):
    """Called often, and only from the driver's thread."""

    def __call__(self, done: int, total: int, noun: str, detail: str = "") -> None:
        """Reports that `done` of `total` things, called `noun` in the plural, are finished.

        `detail` is a short remark to show beside the bar.
        """
