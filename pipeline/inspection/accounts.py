"""Whether every id that came into a stage is kept or dropped there, once.

Ids are compared by their hashes, 8 bytes each: those of 22 million samples are gigabytes of text. Where hashes differ,
the ids are read again to name one.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    # Reads a column of ids from its beginning, a piece at a time.
    Ids = Callable[[], Iterator[pa.Array | pa.ChunkedArray]]


def hashes_of(columns: Iterable[pa.Array | pa.ChunkedArray]) -> NDArray[np.int64]:
    """A 64-bit hash of each text of some columns, in their order; the same text has another hash in another process."""
    hashes = array("q")
    for column in columns:
        hashes.extend(map(hash, column.to_numpy(zero_copy_only=False)))
    return np.frombuffer(hashes, np.int64)


def repeated(ids: Ids) -> tuple[int, str] | None:
    """How many ids occur more than once, and the first of these by name; None where all differ."""
    hashes = hashes_of(ids())
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    return (len(twice), _first_of(ids, twice)) if len(twice) else None


def differences(came_in: Ids, accounted_for: Ids) -> Iterator[str]:
    """A sentence on ids that came in and are not accounted for, and one on those that are without having come in."""
    before, after = hashes_of(came_in()), hashes_of(accounted_for())
    before.sort()
    after.sort()
    if np.array_equal(before, after):
        return
    for ids, more, less, what in (
        (came_in, before, after, "neither kept nor dropped"),
        (accounted_for, after, before, "there twice, or unexpected"),
    ):
        hashes, counts = np.unique(more, return_counts=True)
        excess = counts - (np.searchsorted(less, hashes, "right") - np.searchsorted(less, hashes))
        if (excess > 0).any():
            yield f"{excess[excess > 0].sum()} items are {what}, e.g. {_first_of(ids, hashes[excess > 0])}"


def _first_of(ids: Ids, hashes: NDArray[np.int64]) -> str:
    """The first by name of the ids that have one of these hashes (sorted)."""
    found = []
    for column in ids():
        here = hashes_of([column])
        place = np.searchsorted(hashes, here).clip(max=len(hashes) - 1)
        is_one = hashes[place] == here
        if is_one.any():
            found.append(min(column.filter(is_one).to_pylist()))
    return str(min(found))
