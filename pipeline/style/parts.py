"""The files that the stage writes: one per chunk, with a row per segment.

RUN/style/part-<work_unit>.parquet    STYLE_SCHEMA
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.runs import STYLE, part_files
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

# `style` has a code for each second, repeats and all; null of a dropped segment, which has a reason instead.
STYLE_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("style", pa.list_(pa.uint16())),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)


def part_uris(run: str) -> list[str]:
    """The part files of a run's codes of style, in the order of their chunks, which are those of the units."""
    return part_files(storage.join(run, STYLE))


def read_parts(run: str) -> Iterator[pa.Table]:
    """The codes of a run, one table per chunk, in the order of chunks.

    Raises:
        TwistError: a part is damaged; the message names it.
    """
    uris = part_uris(run)
    return map(_check_columns, uris, parquet.read_many(uris))


def read_part(uri: str) -> pa.Table:
    """The codes of one chunk (STYLE_SCHEMA).

    Raises:
        TwistError: the part is damaged.
    """
    return _check_columns(uri, parquet.read(uri))


def digest_of_part(part: pa.Table) -> str:
    """A digest of a part's segments: their codes, or why they were dropped."""
    ids, reasons = (",".join(map(str, part[name].to_pylist())) for name in ("segment_id", "drop_reason"))
    counts = ",".join(map(str, pc.list_value_length(part["style"]).to_pylist()))
    return digest(ids, reasons, counts, pc.list_flatten(part["style"]).to_numpy().tobytes())


def _check_columns(uri: str, table: pa.Table) -> pa.Table:
    if not table.schema.equals(STYLE_SCHEMA):
        raise TwistError(f"{uri} holds other columns than style; delete it and run `twist style` again")
    return table
