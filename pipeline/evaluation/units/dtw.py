"""How far sequences of frames are apart when either may be stretched: dynamic time warping, as ABX scorers do it.

A path goes from the first frames of both to the last ones, by a step in one sequence or in both. Of the cheapest ways
to each cell the diagonal one is taken, then the one along the columns. The distance is the path's cost over its number
of cells.

Source: Libri-Light's ABX (facebookresearch/libri-light, eval/ABX_src).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    FrameDistance = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
    # Cost and number of cells of the paths of many pairs to one cell.
    Paths = tuple[NDArray[np.float64], NDArray[np.int32]]

# Distances of frames, and costs of paths, that are in memory at once.
FRAME_PAIRS_AT_ONCE = 2**23


def unequal(first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.float64]:
    """Distances of units [R] and [C]: 0 of equal ones, else 1, [R, C]."""
    distances: NDArray[np.float64] = np.where(first[:, None] != second[None], 1.0, 0.0)
    return distances


def angular(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Angles of features [R, D] and [C, D] as a share of the half circle, [R, C].

    A vector of zeros is 0 from another one and 1 from everything else.
    """
    (first, first_is_zero), (second, second_is_zero) = _unit_length(first), _unit_length(second)
    cosines = np.clip(first @ second.T, -1.0, 1.0)
    cosines[first_is_zero] = -1.0
    cosines[:, second_is_zero] = -1.0
    cosines[np.ix_(first_is_zero, second_is_zero)] = 1.0
    angles: NDArray[np.float64] = np.arccos(cosines) / np.pi
    return angles


def _unit_length(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    features = features.astype(np.float64)
    norms = np.linalg.norm(features, axis=1)
    is_zero = norms == 0
    return features / np.where(is_zero, 1.0, norms)[:, None], is_zero


def dtw_distances(
    rows: Sequence[NDArray[Any]], columns: Sequence[NDArray[Any]], distance: FrameDistance
) -> NDArray[np.float64]:
    """The distance of each sequence of `rows` from each of `columns`.

    Args:
        rows: R sequences of frames, each [F] or [F, D] with F at least 1.
        columns: C such sequences.
        distance: Distances of frames [A] or [A, D] from frames [B] or [B, D], as [A, B].

    Returns:
        [R, C].
    """
    lengths = np.array([len(sequence) for sequence in columns])
    order = np.argsort(-lengths, kind="stable")
    frames = np.concatenate([columns[place] for place in order])
    distances = np.empty((len(rows), len(columns)))
    for block in _blocks(rows, len(frames)):
        block = sorted(block, key=lambda row: -len(rows[row]))
        local = distance(np.concatenate([rows[row] for row in block]), frames)
        of_block = _of_sorted(local, np.array([len(rows[row]) for row in block]), lengths[order])
        distances[np.array(block)[:, None], order] = of_block
    return distances


def _blocks(rows: Sequence[NDArray[Any]], num_columns: int) -> Iterator[list[int]]:
    """Places of rows, so many at a time that their frames' distances fit into memory."""
    block: list[int] = []
    num_frames = 0
    for row, sequence in enumerate(rows):
        if block and (num_frames + len(sequence)) * num_columns > FRAME_PAIRS_AT_ONCE:
            yield block
            block, num_frames = [], 0
        block.append(row)
        num_frames += len(sequence)
    yield block


def _of_sorted(
    local: NDArray[np.float64], row_lengths: NDArray[np.int64], column_lengths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """As `dtw_distances`, of frames' distances `local`, for sequences that are sorted: the longest first.

    All pairs take a cell at the same time; pairs that have no such cell are at the end of both axes.
    """
    row_starts, column_starts = (np.cumsum(lengths) - lengths for lengths in (row_lengths, column_lengths))
    result = np.empty((len(row_lengths), len(column_lengths)))
    above: list[Paths] = []
    for i in range(row_lengths[0]):
        num_rows = int((row_lengths > i).sum())
        ends_rows = int((row_lengths > i + 1).sum())
        current: list[Paths] = []
        for j in range(column_lengths[0]):
            num_columns = int((column_lengths > j).sum())
            ends_columns = int((column_lengths > j + 1).sum())
            here = local[np.ix_(row_starts[:num_rows] + i, column_starts[:num_columns] + j)]
            cost, length = _step(
                above[j - 1] if i and j else None, current[j - 1] if j else None, above[j] if i else None, here.shape
            )
            cost = cost + here
            length = length + 1
            current.append((cost, length))
            result[ends_rows:num_rows, ends_columns:num_columns] = (
                cost[ends_rows:, ends_columns:] / length[ends_rows:, ends_columns:]
            )
        above = current
    return result


def _step(diagonal: Paths | None, left: Paths | None, up: Paths | None, shape: tuple[int, ...]) -> Paths:
    """The path to take to a cell, before the cell itself, for all pairs that have it."""
    num_rows, num_columns = shape
    ways = [
        (cost[:num_rows, :num_columns], length[:num_rows, :num_columns])
        for cost, length in filter(None, (diagonal, left, up))
    ]
    if not ways:
        return np.zeros(shape), np.zeros(shape, np.int32)
    cost, length = ways[0]
    for other_cost, other_length in ways[1:]:
        is_cheaper = other_cost < cost
        cost = np.where(is_cheaper, other_cost, cost)
        length = np.where(is_cheaper, other_length, length)
    return cost, length
