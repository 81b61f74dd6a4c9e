"""Compact facts about every segment, on which all decisions about the whole corpus are based.

1. `Survey` reads a batch of part files and writes the facts about its segments, partitioned into ranges of segment ids,
   and their landmarks.
2. `SortFacts` collects one range of ids and sorts it.
3. `Facts` reads the sorted files: numbers are columns kept in memory, texts (mainly ids) are read when needed.
"""

from __future__ import annotations

import bisect
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.manifest import iterate_tables
from pipeline.files import parquet, partitioned, storage
from pipeline.packing.config import DegenerateConfig, DuplicatesConfig
from pipeline.packing.decontaminate import EvaluationIndex, contaminated
from pipeline.packing.degenerate import degenerate
from pipeline.packing.duplicates import LANDMARK_SCHEMA
from pipeline.packing.landmarks import landmark_pairs
from pipeline.units.parts import Batch, Flat, read_kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# `batch` and `row` locate the segment's units; `content` is a hash of units and durations; `reason` and `detail` say
# why the segment is dropped, whatever the other segments are.
FACTS_SCHEMA = pa.schema(
    [
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("segment_id", pa.large_string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("num_units", pa.int32(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("content", pa.binary(16), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class Survey:
    """Reads a batch of part files and writes the facts and the landmarks of its segments.

    Attributes:
        folder: Folder for intermediate files.
        degenerate: Which segments cannot be speech.
        duplicates: Whether to look for near duplicates, and how thoroughly.
        evaluation: File with the index of evaluation speech; None if there is none.
        num_partitions: Number of partitions of the landmarks.
        first_ids: Ids at which the second and later ranges of segment ids begin, ascending.
    """

    folder: str
    degenerate: DegenerateConfig
    duplicates: DuplicatesConfig
    evaluation: str | None
    num_partitions: int
    first_ids: tuple[str, ...] = ()

    def facts_uri(self, batch: int) -> str:
        """A batch's facts (FACTS_SCHEMA), partitioned into ranges of segment ids."""
        return storage.join(self.folder, f"facts-{batch:06d}.scatter")

    def landmarks_uri(self, batch: int) -> str:
        """A batch's landmarks (LANDMARK_SCHEMA), partitioned by their keys."""
        return storage.join(self.folder, f"landmarks-{batch:06d}.scatter")

    def __call__(self, batch: Batch) -> None:
        """Surveys one batch, unless its file of facts exists."""
        if storage.exists(self.facts_uri(batch.number)):
            return
        evaluation = EvaluationIndex.load(self.evaluation) if self.evaluation else None
        facts, landmarks = [FACTS_SCHEMA.empty_table()], [LANDMARK_SCHEMA.empty_table()]
        num_rows = 0
        for table in read_kept(batch):
            facts.append(self._facts(table, batch.number, num_rows, evaluation))
            if self.duplicates.drop == "near":
                landmarks.append(self._landmarks(table, num_rows))
            num_rows += len(table)
        if self.duplicates.drop == "near":
            joined = pa.concat_tables(landmarks)
            partitions = (joined["key"].to_numpy() % np.uint64(self.num_partitions)).astype(np.uint32)
            partitioned.write(self.landmarks_uri(batch.number), joined, partitions, self.num_partitions)
        of_batch = pa.concat_tables(facts)
        ranges = [bisect.bisect_right(self.first_ids, id) for id in of_batch["segment_id"].to_pylist()]
        partitioned.write(self.facts_uri(batch.number), of_batch, np.array(ranges, np.int32), len(self.first_ids) + 1)

    def _facts(self, table: pa.Table, batch: int, first_row: int, evaluation: EvaluationIndex | None) -> pa.Table:
        flat = Flat.of(table)
        durations_s = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
        reasons: list[str | None] = [None] * len(table)
        details: list[str | None] = [None] * len(table)
        if evaluation is not None:
            for row, detail in contaminated(flat.owners, flat.units, flat.durations, evaluation).items():
                reasons[row], details[row] = "evaluation", detail
        for row, detail in degenerate(flat.owners, flat.units, flat.durations, durations_s, self.degenerate).items():
            reasons[row], details[row] = "degenerate", detail
        columns = {
            "batch": [batch] * len(table),
            "row": list(range(first_row, first_row + len(table))),
            **{name: table[name] for name in ("segment_id", "recording_id", "start_s", "end_s", "num_frames")},
            "num_units": pc.list_value_length(table["units"]),
            "content": [_content(*flat.segment(row)) for row in range(len(table))],
            "reason": reasons,
            "detail": details,
        }
        return pa.table(
            [
                pa.chunked_array([pa.array(columns[field.name], field.type)])
                if isinstance(columns[field.name], list)
                else columns[field.name].cast(field.type)
                for field in FACTS_SCHEMA
            ],
            schema=FACTS_SCHEMA,
        )

    def _landmarks(self, table: pa.Table, first_row: int) -> pa.Table:
        flat = Flat.of(table)
        settings = self.duplicates
        assert settings.landmark_units is not None
        found = landmark_pairs(
            flat.owners, flat.units, flat.durations, settings.landmark_units, settings.pairs_per_landmark
        )
        order = np.argsort(found.owners, kind="stable")
        order = order[found.frames[order] < 2**16]  # the first 43 minutes of a segment
        rows = (found.owners[order] + first_row).astype(np.uint32)
        columns = [found.keys[order], rows, found.frames[order].astype(np.uint16)]
        return pa.table(columns, schema=LANDMARK_SCHEMA)


def _content(units: NDArray[np.uint16], durations: NDArray[np.uint16]) -> bytes:
    return hashlib.blake2b(units.tobytes() + durations.tobytes(), digest_size=16).digest()


@dataclass(frozen=True)
class SortFacts:
    """Sorts the facts about one range of segment ids.

    Attributes:
        folder: Folder for intermediate files.
        files: The survey's facts, one file per batch.
    """

    folder: str
    files: tuple[str, ...]

    def sorted_uri(self, number: int) -> str:
        """The facts about one range of ids, sorted by id."""
        return storage.join(self.folder, f"facts-by-id-{number:06d}.parquet")

    def __call__(self, number: int) -> None:
        """Sorts one range, unless its file exists."""
        if not storage.exists(self.sorted_uri(number)):
            table = partitioned.gather_as_one(self.files, number, FACTS_SCHEMA)
            parquet.write(self.sorted_uri(number), table.sort_by("segment_id"))


@dataclass(frozen=True)
class Facts:
    """The facts about all segments, in the order of segment ids. Every array [n] is in this order, except `by_batch`.

    Attributes:
        files: The sorted facts, one file per range of ids, in order.
        recording_ids: The recordings that have segments, in the order of those.
        recording: [n] index of each segment's recording in `recording_ids`.
        num_units: [n].
        num_frames: [n].
        by_batch: [n] for the segments in the order of batches and rows: each one's index in the order of ids.
        batch_starts: [batches] the start of each batch in `by_batch`.
    """

    files: tuple[str, ...]
    recording_ids: pa.ChunkedArray
    recording: NDArray[np.int32]
    num_units: NDArray[np.int32]
    num_frames: NDArray[np.int32]
    by_batch: NDArray[np.int32]
    batch_starts: tuple[int, ...]

    @classmethod
    def read(cls, files: tuple[str, ...], num_batches: int) -> Facts:
        """Reads the columns that stay in memory."""
        names = ("batch", "row", "num_units", "num_frames")
        columns: dict[str, list[NDArray[np.int32]]] = {name: [np.empty(0, np.int32)] for name in ("recording", *names)}
        recording_ids = [pa.array([], pa.string())]
        num_recordings = 0
        for _, table in _tables(files, ["recording_id", *names]):
            encoded = table["recording_id"].combine_chunks().dictionary_encode()
            ids = encoded.dictionary
            # A recording may go on from the rows before.
            num_known = int(len(ids) > 0 and len(recording_ids[-1]) > 0 and ids[0] == recording_ids[-1][-1])
            columns["recording"].append(encoded.indices.to_numpy() + np.int32(num_recordings - num_known))
            num_recordings += len(ids) - num_known
            if len(ids) > num_known:
                recording_ids.append(ids[num_known:])
            for name in names:
                columns[name].append(table[name].to_numpy())
        joined = {name: np.concatenate(columns.pop(name)) for name in list(columns)}
        batch, row = joined.pop("batch"), joined.pop("row")
        sizes = np.bincount(batch, minlength=num_batches)
        starts = np.cumsum(sizes) - sizes
        by_batch = np.empty(len(batch), np.int32)
        by_batch[starts[batch] + row] = np.arange(len(batch), dtype=np.int32)
        return cls(
            files, pa.chunked_array(recording_ids), **joined, by_batch=by_batch, batch_starts=tuple(starts.tolist())
        )

    def __len__(self) -> int:
        return len(self.num_units)

    def tables(self, columns: list[str]) -> Iterator[tuple[slice, pa.Table]]:
        """Yields these columns of FACTS_SCHEMA, some rows at a time, each table with the slice of its rows."""
        return _tables(self.files, columns)

    def column(self, name: str) -> NDArray[Any]:
        """A numeric column of FACTS_SCHEMA, [n]."""
        return np.concatenate([table[name].to_numpy() for _, table in self.tables([name])])

    def seconds_of_recordings(self) -> NDArray[np.float64]:
        """The duration of each recording's segments, [recordings], but for those dropped for what they hold."""
        seconds = np.zeros(len(self.recording_ids))
        for rows, table in self.tables(["start_s", "end_s", "reason"]):
            if not len(table):
                continue
            is_kept = table["reason"].is_null().to_numpy()
            durations_s = pc.subtract(table["end_s"], table["start_s"]).to_numpy() * is_kept
            first, last = self.recording[rows][[0, -1]]
            seconds[first : last + 1] += np.bincount(self.recording[rows] - first, durations_s)
        return seconds

    def ids_of(self, rows: NDArray[np.integer]) -> pa.Array:
        """The ids of these rows, which may be in any order and repeat."""
        wanted, place = np.unique(rows, return_inverse=True)
        found = []
        for block, table in self.tables(["segment_id"]):
            first, end = np.searchsorted(wanted, [block.start, block.stop])
            found.append(table["segment_id"].take(pa.array(wanted[first:end] - block.start)))
        ids = pa.chunked_array([chunk for column in found for chunk in column.chunks], pa.large_string())
        return ids.combine_chunks().take(pa.array(place))

    def contents(self) -> NDArray[np.uint64]:
        """The two halves of a hash of each segment's units and durations, [n, 2]."""
        halves = [np.empty((0, 2), np.uint64)]
        for _, table in self.tables(["content"]):
            halves += [_halves(chunk) for chunk in table["content"].chunks if len(chunk)]
        return np.concatenate(halves)


def _tables(files: Sequence[str], columns: list[str]) -> Iterator[tuple[slice, pa.Table]]:
    start = 0
    for uri in files:
        with parquet.RowGroups(uri, columns) as groups:
            for table in groups:
                yield slice(start, start + len(table)), table
                start += len(table)


def _halves(contents: pa.FixedSizeBinaryArray) -> NDArray[np.uint64]:
    whole = np.frombuffer(contents.buffers()[1], np.uint64).reshape(-1, 2)
    return whole[contents.offset : contents.offset + len(contents)]


def id_ranges(run: str, num_ranges: int) -> tuple[str, ...]:
    """Ids that divide a run's segments into ranges of about equal size: the first id of every range but the first.

    A segment's id begins with its recording's id, so ids of recordings will do; recordings are weighted by duration.
    """
    if num_ranges == 1:
        return ()
    table = pa.concat_tables(iterate_tables(run, ["recording_id", "duration_s"])).sort_by("recording_id")
    ends_s = np.cumsum(table["duration_s"].to_numpy())
    rows = np.searchsorted(ends_s, ends_s[-1] * np.arange(1, num_ranges) / num_ranges)
    return tuple(sorted(set(table["recording_id"].take(pa.array(rows)).to_pylist())))
