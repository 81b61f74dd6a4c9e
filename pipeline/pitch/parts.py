"""The files that the pitch stage writes: one per chunk, with a row per segment.

RUN/pitch/part-<work_unit>.parquet      PITCH_SCHEMA
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.records import PITCH_SCHEMA
from pipeline.runs import PITCH, part_files
from pipeline.stage import digest

if TYPE_CHECKING:
    import pyarrow as pa


def part_uris(run: str) -> list[str]:
    """The part files of a run's pitch, in the order of their chunks; each has the name of that of the units."""
    return part_files(storage.join(run, PITCH))


def read_part(uri: str) -> pa.Table:
    """The pitch of one chunk (PITCH_SCHEMA).

    Raises:
        TwistError: the part is damaged.
    """
    table = parquet.read(uri)
    if not table.schema.equals(PITCH_SCHEMA):
        raise TwistError(f"{uri} holds other columns than pitch; delete it and run `twist pitch` again")
    return table


def digest_of_part(part: pa.Table) -> str:
    """A digest of a part's segments: their codes, or why they were dropped."""
    columns = {name: part[name].to_pylist() for name in ("segment_id", "f0_mean_hz", "drop_reason")}
    columns["num_codes"] = pc.list_value_length(part["pitch"]).to_pylist()
    return digest(json.dumps(columns), pc.list_flatten(part["pitch"]).to_numpy().tobytes())
