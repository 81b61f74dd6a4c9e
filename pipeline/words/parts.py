"""The files that aligning writes: one per chunk of segments, with a row per segment.

RUN/words/part-<work_unit>.parquet      WORDS_SCHEMA
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.records import WORDS_SCHEMA
from pipeline.runs import WORDS, part_files

if TYPE_CHECKING:
    import pyarrow as pa


def part_uris(run: str) -> list[str]:
    """The part files of a run's words, in the order of their chunks; each has the name of that of the units."""
    return part_files(storage.join(run, WORDS))


def read_part(uri: str) -> pa.Table:
    """The words of one chunk (WORDS_SCHEMA), in the order of its segments.

    Raises:
        TwistError: the part is damaged.
    """
    table = parquet.read(uri)
    if not table.schema.equals(WORDS_SCHEMA):
        raise TwistError(f"{uri} holds other columns than words; delete {uri.rpartition('/')[0]} and align again")
    return table
