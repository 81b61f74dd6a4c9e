"""How a stage tells what it has done: steps call it, commands draw it."""

from __future__ import annotations

from typing import Protocol


class ReportProgress(Protocol):
    """Called often, from the driver's thread alone."""

    def __call__(self, done: int, total: int, noun: str, detail: str = "") -> None:
        """`done` of `total` things called `noun` are finished; `detail` is a short remark for the eye."""
