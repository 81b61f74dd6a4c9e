"""A stage's work as chunk names and table rows; each chunk is made when its turn comes.

A plan for 150,000 hours has 22 million segments in 300,000 chunks: as Python objects these would take a dozen GiB.
"""

from __future__ import annotations

import collections
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.read import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

# Tables kept in memory: all chunks but the retried ones are read in the order of the plan.
CACHED_TABLES = 3


@dataclass(frozen=True)
class Chunk:
    """Spans of audio that one worker takes together, each with the id of its recording or segment.

    `texts` says what is said in each, where the plan has that.
    """

    name: str
    ids: tuple[str, ...]
    spans: tuple[Span, ...]
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.spans) > 0, f"chunk {self.name} has {len(self.ids)} ids"

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return sum(span.end_s - span.start_s for span in self.spans)


class WorkPlan(collections.abc.Sequence[Chunk]):
    """A sequence of chunks, made on access from rows of tables.

    Args:
        tables: The tables in order, each with whole chunks of adjacent rows. Columns: work_unit (the chunk's name),
            `id`, uri, channel, start_s, end_s, and perhaps reads_on_s and text. Iterated over once, for names and
            durations.
        read: Reads the table of a given index again.
        id: Name of the column of ids.
    """

    def __init__(self, tables: Iterable[pa.Table], read: Callable[[int], pa.Table], id: str) -> None:
        self._read = functools.lru_cache(CACHED_TABLES)(read)
        self._id = id
        self.names: list[str] = []
        """The names of the chunks, in order."""
        firsts, places, durations_s = [], [], []
        for number, table in enumerate(tables):
            names, counts = _runs(table["work_unit"])
            starts = np.cumsum(counts) - counts
            seconds = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
            self.names += names
            places.append(np.full(len(names), number))
            firsts.append(np.stack([starts, counts], axis=1))
            durations_s.append(np.add.reduceat(seconds, starts) if len(starts) else seconds)
        self._table_of = np.concatenate([np.zeros(0, np.int64), *places])
        self._rows = np.concatenate([np.zeros((0, 2), np.int64), *firsts])
        self.durations_s: NDArray[np.float64] = np.concatenate([np.zeros(0), *durations_s])
        """Seconds of audio in each chunk."""

    @classmethod
    def of(cls, table: pa.Table, id: str) -> WorkPlan:
        """The plan of a single table in memory."""
        return cls([table], lambda _: table, id)

    @property
    def num_items(self) -> int:
        """The number of spans in all chunks."""
        return int(self._rows[:, 1].sum())

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Chunk]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Chunk:  # type: ignore[override]  # slices are not needed
        first, count = self._rows[index].tolist()
        rows = self._read(int(self._table_of[index])).slice(first, count)
        names = [name for name in ("uri", "channel", "start_s", "end_s", "reads_on_s") if name in rows.column_names]
        columns = (rows[name].to_pylist() for name in names)
        spans = tuple(Span(*span) for span in zip(*columns, strict=True))
        texts = tuple(rows["text"].to_pylist()) if "text" in rows.column_names else ()
        return Chunk(self.names[index], tuple(rows[self._id].to_pylist()), spans, texts)


class ChunkNames:
    """Assigns spans to chunks of about `chunk_s` seconds: adjacent spans of one corpus share a chunk.

    Chunks are numbered within each corpus, so that adding another corpus does not rename them.
    """

    def __init__(self, chunk_s: float) -> None:
        self._chunk_s = chunk_s
        self._corpus: str | None = None
        self._total_s = 0.0
        self._place = 0
        self._number = 0
        self._name = ""

    def next(self, corpus: str, duration_s: float) -> str:
        """The name of the chunk of the next span."""
        if corpus != self._corpus:
            self._corpus, self._total_s, self._place, self._number = corpus, 0.0, 0, 0
            self._name = f"{corpus}-{0:07d}"
        # Rounded, so that errors of float sums cannot move a span to another chunk.
        place = math.floor(round(self._total_s / self._chunk_s, 6))
        if place != self._place:
            self._place = place
            self._number += 1
            self._name = f"{corpus}-{self._number:07d}"
        self._total_s += duration_s
        return self._name


def name_chunks(corpora: Sequence[str], durations_s: Iterable[float], chunk_s: float) -> list[str]:
    """The chunk name of each span in a sequence; see ChunkNames."""
    names = ChunkNames(chunk_s)
    return [names.next(corpus, duration_s) for corpus, duration_s in zip(corpora, durations_s, strict=True)]


def _runs(names: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """Run-length encodes names: each run's name and length."""
    runs = pc.run_end_encode(names.combine_chunks() if names.num_chunks != 1 else names.chunk(0))
    ends = runs.run_ends.to_numpy()
    return runs.values.to_pylist(), np.diff(ends, prepend=0).astype(np.int64)
