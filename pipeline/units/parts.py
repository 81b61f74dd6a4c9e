"""The files that tokenizing writes: one per chunk, with a row per segment.

    RUN/units/part-<work_unit>.parquet    UNITS_SCHEMA

Kept apart from the code that writes them, so that reading needs no torch: many tasks read them, a process each.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.records import UNITS_SCHEMA
from pipeline.runs import UNITS, part_files
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Part files that one task reads."""

    number: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Flat:
    """The units of a table's segments, joined into one array.

    Attributes:
        offsets: [segments + 1] segment i is at offsets[i] to offsets[i + 1].
        units: [n].
        durations: [n] in frames.
    """

    offsets: NDArray[np.int64]
    units: NDArray[np.uint16]
    durations: NDArray[np.uint16]

    @classmethod
    def of(cls, table: pa.Table) -> Flat:
        """Joins the lists of columns `units` and `durations`, which must not have nulls."""
        lengths = pc.list_value_length(table["units"]).to_numpy().astype(np.int64)
        units, durations = (pc.list_flatten(table[name]).to_numpy() for name in ("units", "durations"))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(offsets, units, durations)

    @functools.cached_property
    def owners(self) -> NDArray[np.int64]:
        """[n] the row of each unit's segment."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def segment(self, row: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Units and durations [m] of the segment in `row`."""
        start, end = self.offsets[row : row + 2]
        return self.units[start:end], self.durations[start:end]


def read_parts(run: str) -> Iterator[pa.Table]:
    """The units of a run, one table per chunk, in the order of chunks.

    Raises:
        TwistError: a part is damaged; the message names it.
    """
    return read_part_tables(part_uris(run))


def read_part_tables(uris: Sequence[str]) -> Iterator[pa.Table]:
    """The units in some part files, one table per file.

    Raises:
        TwistError: a part is damaged; the message names it.
    """
    return map(_check_columns, uris, parquet.read_many(uris))


def read_kept(batch: Batch) -> list[pa.Table]:
    """The segments of a batch that have units, one table per part.

    Raises:
        TwistError: a part is damaged.
    """
    tables = read_part_tables(batch.parts)
    return [table.filter(pc.is_valid(table["units"])).select(UNITS_SCHEMA.names[:7]) for table in tables]


def part_uris(run: str) -> list[str]:
    """The part files of a run's units, in the order of their chunks."""
    return part_files(storage.join(run, UNITS))


def read_part(uri: str) -> pa.Table:
    """The units of one chunk (UNITS_SCHEMA).

    Raises:
        TwistError: the part is damaged.
    """
    return _check_columns(uri, parquet.read(uri))


def _check_columns(uri: str, table: pa.Table) -> pa.Table:
    if not table.schema.equals(UNITS_SCHEMA):
        raise TwistError(f"{uri} holds other columns than units; delete it and tokenize again")
    return table


def digest_of_part(part: pa.Table) -> str:
    """A digest of a part's segments: their units and durations, or why they were dropped.

    The digests of all parts identify the stage's output.
    """
    columns = {name: part[name].to_pylist() for name in ("segment_id", "drop_reason")}
    columns["num_units"] = pc.list_value_length(part["units"]).to_pylist()
    content = [pc.list_flatten(part[name]).to_numpy().tobytes() for name in ("units", "durations")]
    return digest(json.dumps(columns), *content)
