"""Several samples in one row: which go together, and the rows that they make."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def fit_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Samples in rows by best fit, the longest first (at most 22% and a row more rows than the best there is).

    Args:
        lengths: Of each sample, none longer than a row.
        row_length: Of each row.

    Returns:
        The samples of each row, by their numbers; each is in one row, whole.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what each row has left, ascending, and which row it is
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        length = lengths[sample]
        assert length <= row_length, f"a sample of {length} units does not fit into a row of {row_length}"
        place = bisect.bisect_left(room, (length, -1))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = row_length, len(rows)
            rows.append([])
        rows[row].append(sample)
        bisect.insort(room, (left - length, row))
    return rows
