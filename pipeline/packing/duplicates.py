"""Finds duplicate speech: exact (the same units and durations) or near (the same recording, encoded or cut otherwise).

Near duplicates are found in bounded memory, however many segments there are (landmarks.py explains the comparison):

1. `Survey` (facts.py) writes each segment's pairs of landmarks, partitioned by their hashes.
2. `ShareLandmarks` finds, in each partition, which two segments share a pair and at which lag; its results are
   partitioned by the right segment.
3. `Propose` makes two segments candidates if they share enough pairs at one lag.
4. `FetchSpeech` collects the candidates' units, and `Compare` aligns them.
5. `choose_twins` decides which of two segments stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.files import parquet, partitioned, storage
from pipeline.packing.config import DuplicatesConfig
from pipeline.packing.landmarks import MIN_SHARED_PAIRS, MIN_SPAN_FRAMES, align, vote
from pipeline.units.parts import read_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from pipeline.units.parts import Batch

# Up to this many segments that share a landmark are all paired with each other. If there are more, each is paired with
# the first only, so that the work stays proportional to the data, however common a phrase is.
MAX_ALL_PAIRS = 4
LANDMARK_SCHEMA = pa.schema([("key", pa.uint64()), ("row", pa.uint32()), ("frame", pa.uint16())])
PAIR_SCHEMA = pa.schema([("left", pa.uint32()), ("right", pa.uint32()), ("lag", pa.int32()), ("frame", pa.uint16())])
CANDIDATE_SCHEMA = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("lag", pa.int32())])
SPEECH_SCHEMA = pa.schema([("row", pa.int64()), ("units", pa.list_(pa.uint16())), ("durations", pa.list_(pa.uint16()))])
SIMILAR_SCHEMA = pa.schema(
    [("left", pa.int64()), ("right", pa.int64()), ("similarity", pa.float64()), ("overlap", pa.int64())]
)


def find_exact(
    contents: tuple[NDArray[np.uint64], NDArray[np.uint64]], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds segments that exactly repeat another.

    With hundreds of kinds of units at 25 Hz, no two recordings of natural speech agree in every unit and duration, so
    equal segments are one recording that came in twice.

    Args:
        contents: Two halves [rows] of a hash of each segment's units and durations.
        order: The rows to compare; the first of several equal ones stays.

    Returns:
        The rows that repeat another, and for each the row that stays.
    """
    first, second = (half[order] for half in contents)
    grouped = np.lexsort((np.arange(len(order)), second, first))
    is_new = np.ones(len(order), bool)
    is_new[1:] = (first[grouped][1:] != first[grouped][:-1]) | (second[grouped][1:] != second[grouped][:-1])
    keeper = grouped[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    return order[grouped[~is_new]], order[keeper[~is_new]]


@dataclass(frozen=True)
class ShareLandmarks:
    """Finds, in one partition of the landmarks, which segments share any.

    Attributes:
        folder: Folder for intermediate files.
        files: The survey's landmarks, one file per batch.
        bases: Number of the first segment of each batch.
    """

    folder: str
    files: tuple[str, ...]
    bases: tuple[int, ...]

    def pairs_uri(self, partition: int) -> str:
        """Pairs of segments that share landmarks of one partition (PAIR_SCHEMA).

        They are partitioned by the right segment. The left one is often the first segment with the landmark, and for
        common landmarks that is always one of the first few, so partitions by it would be uneven.
        """
        return storage.join(self.folder, f"shared-{partition:06d}.scatter")

    def __call__(self, partition: int) -> None:
        """Processes one partition, unless its file exists."""
        target = self.pairs_uri(partition)
        if storage.exists(target):
            return
        num_partitions = partitioned.num_partitions(self.files[0])
        tables = partitioned.gather(self.files, partition)
        found = [(table, base) for table, base in zip(tables, self.bases, strict=True) if table is not None]
        keys = _concatenated(np.uint64, (table["key"].to_numpy() for table, _ in found))
        rows = _concatenated(np.uint32, (table["row"].to_numpy() + np.uint32(base) for table, base in found))
        frames = _concatenated(np.int32, (table["frame"].to_numpy().astype(np.int32) for table, _ in found))
        del tables, found
        pairs = _shared(keys, rows, frames)
        partitioned.write(target, pairs, pairs["right"].to_numpy() % num_partitions, num_partitions)


def _concatenated(dtype: type, arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])


def _shared(keys: NDArray[np.uint64], rows: NDArray[np.uint32], frames: NDArray[np.int32]) -> pa.Table:
    """Pairs of segments with a landmark in common, their lag by it, and its frame in the left segment (PAIR_SCHEMA)."""
    # A task holds millions of landmarks, and a machine runs one task per core: use 4 bytes per number, not 8.
    order = np.argsort(keys, kind="stable").astype(np.int32)  # rows ascend within a key
    keys = keys[order]
    is_new = np.ones(len(keys), bool)
    is_new[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(is_new)
    sizes = np.diff(np.append(starts, len(keys)))
    many = sizes > 1
    starts, sizes = starts[many], sizes[many]
    # For each landmark whose key occurs more than once: its run of equal keys, number in the run, and index in `order`.
    starts, sizes = starts.astype(np.int32), sizes.astype(np.int32)
    run = np.repeat(np.arange(len(starts), dtype=np.int32), sizes)
    number = np.arange(len(run), dtype=np.int32) - np.repeat(np.cumsum(sizes, dtype=np.int32) - sizes, sizes)
    place = starts[run] + number
    lefts, rights = [place[:0]], [place[:0]]
    for step in range(1, MAX_ALL_PAIRS):
        paired = (sizes[run] <= MAX_ALL_PAIRS) & (number >= step)
        lefts.append(place[paired] - step)
        rights.append(place[paired])
    starred = (sizes[run] > MAX_ALL_PAIRS) & (number > 0)
    lefts.append(starts[run[starred]])
    rights.append(place[starred])
    first, second = order[np.concatenate(lefts)], order[np.concatenate(rights)]
    other = rows[first] != rows[second]
    first, second = first[other], second[other]
    columns = [rows[first], rows[second], frames[first] - frames[second], frames[first].astype(np.uint16)]
    return pa.table(columns, schema=PAIR_SCHEMA)


@dataclass(frozen=True)
class Propose:
    """Makes pairs of segments that share enough landmarks at one lag candidates.

    Attributes:
        folder: Folder for intermediate files.
        files: Pairs that share landmarks (PAIR_SCHEMA).
        landmark_units: Number of units in a landmark.
    """

    folder: str
    files: tuple[str, ...]
    landmark_units: int

    def candidates_uri(self, partition: int) -> str:
        """The candidates of one partition (CANDIDATE_SCHEMA)."""
        return storage.join(self.folder, f"candidates-{partition:06d}.parquet")

    def __call__(self, partition: int) -> None:
        """Processes one partition, unless its file exists."""
        target = self.candidates_uri(partition)
        if storage.exists(target):
            return
        table = partitioned.gather_as_one(self.files, partition, PAIR_SCHEMA)
        found = vote(
            *(table[name].to_numpy() for name in PAIR_SCHEMA.names),
            min_votes=MIN_SHARED_PAIRS[self.landmark_units],
            min_span_frames=MIN_SPAN_FRAMES,
        )
        columns = [found.left, found.right, found.lag.astype(np.int32)]
        parquet.write(target, pa.table(columns, schema=CANDIDATE_SCHEMA))


@dataclass(frozen=True)
class FetchSpeech:
    """Collects the units of candidates for `Compare`.

    Attributes:
        folder: Folder for intermediate files.
        candidates: File of all candidates (CANDIDATE_SCHEMA), in order; partition p has each num_partitions-th from p.
        bases: Number of the first segment of each batch.
        num_partitions: Number of partitions of the candidates.
    """

    folder: str
    candidates: str
    bases: tuple[int, ...]
    num_partitions: int

    def speech_uri(self, batch: int) -> str:
        """The candidates' units that are in one batch (SPEECH_SCHEMA), partitioned as the candidates are."""
        return storage.join(self.folder, f"speech-{batch:06d}.scatter")

    def __call__(self, batch: Batch) -> None:
        """Processes one batch, unless its file exists."""
        target = self.speech_uri(batch.number)
        if storage.exists(target):
            return
        candidates = parquet.read(self.candidates, ["left", "right"])
        partition = np.tile(np.arange(len(candidates)) % self.num_partitions, 2)
        row = np.concatenate([candidates[name].to_numpy() for name in ("left", "right")])
        base = self.bases[batch.number]
        end = self.bases[batch.number + 1] if batch.number + 1 < len(self.bases) else np.iinfo(np.int64).max
        is_mine = (row >= base) & (row < end)
        wanted = np.unique(np.stack([partition[is_mine], row[is_mine] - base]), axis=1)
        table = SPEECH_SCHEMA.empty_table()
        if wanted.size:
            speech = pa.concat_tables(part.select(["units", "durations"]) for part in read_kept(batch))
            taken = speech.take(pa.array(wanted[1]))
            table = pa.table([pa.array(wanted[1] + base), taken["units"], taken["durations"]], schema=SPEECH_SCHEMA)
        partitioned.write(target, table, wanted[0], self.num_partitions)


@dataclass(frozen=True)
class Compare:
    """Aligns the candidates of one partition.

    Attributes:
        folder: Folder for intermediate files.
        files: Units of the candidates' segments (SPEECH_SCHEMA), one file per batch, partitioned as the candidates are.
        candidates: File of all candidates (CANDIDATE_SCHEMA), in order; partition p has each num_partitions-th from p.
        num_partitions: Number of partitions of the candidates.
    """

    folder: str
    files: tuple[str, ...]
    candidates: str
    num_partitions: int

    def similar_uri(self, partition: int) -> str:
        """The similarities of the candidates of one partition (SIMILAR_SCHEMA)."""
        return storage.join(self.folder, f"similar-{partition:06d}.parquet")

    def __call__(self, partition: int) -> None:
        """Processes one partition, unless its file exists."""
        target = self.similar_uri(partition)
        if storage.exists(target):
            return
        frames = _frames_by_row(partitioned.gather_as_one(self.files, partition, SPEECH_SCHEMA).combine_chunks())
        table = parquet.read(self.candidates)
        mine = table.take(pa.array(np.arange(partition, len(table), self.num_partitions)))
        columns: list[list[float]] = [[], [], [], []]
        for left, right, lag in zip(*(mine[name].to_pylist() for name in CANDIDATE_SCHEMA.names), strict=True):
            alignment = align(frames(left), frames(right), lag)
            values = (left, right, alignment.similarity, alignment.overlap_frames)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        parquet.write(target, pa.table(columns, schema=SIMILAR_SCHEMA))


def _frames_by_row(speech: pa.Table) -> Callable[[int], NDArray[np.uint16]]:
    """A function from a segment's row to the unit of each of its frames."""
    place_of = {row: place for place, row in enumerate(speech["row"].to_pylist())}
    units, durations = (_flat(speech[name]) for name in ("units", "durations"))

    def frames(row: int) -> NDArray[np.uint16]:
        place = place_of[row]
        start, end = units[1][place : place + 2]
        found: NDArray[np.uint16] = np.repeat(units[0][start:end], durations[0][start:end])
        return found

    return frames


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """The values of all lists, and offsets: list i is values[offsets[i] : offsets[i + 1]]."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.values.to_numpy(), array.offsets.to_numpy().astype(np.int64)


def choose_twins(
    similar: pa.Table,
    priority: NDArray[np.int64],
    num_frames: NDArray[np.int64],
    is_evaluation: NDArray[np.bool_],
    config: DuplicatesConfig,
) -> dict[int, tuple[int, float, int]]:
    """Chooses which segments are dropped, each for a twin that stays.

    In the order of priority, a segment is dropped if one that stays has enough of it (`min_overlap`). If only one of
    the two is for evaluation, enough of the shorter one will do, because training must not see evaluation speech.

    Args:
        similar: Compared candidates (SIMILAR_SCHEMA).
        priority: [rows] rank of each segment, the lowest having the first right to stay; -1 if dropped already.
        num_frames: [rows].
        is_evaluation: [rows] whether a segment is in validation or test.
        config: The thresholds.

    Returns:
        By dropped row: its twin, their similarity, and the length of their overlap in frames.
    """
    left, right = (similar[name].to_numpy() for name in ("left", "right"))
    similarity, overlap = (similar[name].to_numpy() for name in ("similarity", "overlap"))
    swap = priority[left] > priority[right]
    stays, goes = np.where(swap, right, left), np.where(swap, left, right)
    wanted = np.where(
        is_evaluation[stays] != is_evaluation[goes],
        np.minimum(num_frames[stays], num_frames[goes]),
        num_frames[goes],
    )
    is_same = (similarity >= config.min_similarity) & (overlap >= config.min_overlap * wanted)
    is_same &= (priority[left] >= 0) & (priority[right] >= 0)
    chosen = np.flatnonzero(is_same)
    chosen = chosen[np.lexsort((priority[stays[chosen]], -similarity[chosen], priority[goes[chosen]]))]
    twins: dict[int, tuple[int, float, int]] = {}
    for place in chosen.tolist():
        kept, gone = int(stays[place]), int(goes[place])
        if kept not in twins and gone not in twins:
            twins[gone] = (kept, float(similarity[place]), int(overlap[place]))
    return twins
