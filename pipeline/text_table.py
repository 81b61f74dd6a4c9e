"""Rows of text in columns, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def in_columns(rows: Sequence[Sequence[str]], left_aligned: Collection[int] = (0,)) -> list[str]:
    """A line a row; columns are as wide as their widest cell, and aligned on the right but for those named."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(range(len(row)), row, widths, strict=True)
        aligned = (cell.ljust(width) if place in left_aligned else cell.rjust(width) for place, cell, width in cells)
        lines.append("  ".join(aligned).rstrip())
    return lines
