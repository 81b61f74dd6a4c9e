"""What tests give to the steps that report their progress."""

from __future__ import annotations


def silently(done: int, total: int, noun: str, detail: str = "") -> None:
    """Reports nothing."""
