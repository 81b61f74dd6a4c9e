"""Finds a few rows of a large Parquet file by the text in one column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.files import parquet

if TYPE_CHECKING:
    from collections.abc import Collection


def find_rows(uri: str, column: str, wanted: Collection[str], *, is_unique: bool = False) -> pa.Table:
    """The rows whose `column` is one of `wanted`, in the order of the file.

    A row group whose smallest and largest value exclude all of them is not read; of the others one column is, and the
    rest only where a row is found. So memory is that of one row group, and of an object on S3 nothing else is fetched.

    Args:
        uri: The file.
        column: A column of text.
        wanted: What to look for.
        is_unique: Each value occurs once at most: reading ends when all are found.

    Raises:
        FileNotFoundError, DamagedFileError: as parquet.read.
    """
    left = set(wanted)
    with parquet.RowGroups(uri, in_ranges=True) as groups:
        found = [groups.schema.empty_table()]
        for number in range(len(groups)):
            if not left:
                break
            bounds = groups.bounds(number, column)
            if bounds and not any(bounds[0] <= value <= bounds[1] for value in left):
                continue
            values = groups.read(number, [column])[column]
            rows = np.flatnonzero(pc.is_in(values, pa.array(sorted(left), values.type)).to_numpy())
            if len(rows):
                found.append(groups.read(number).take(pa.array(rows)))
                if is_unique:
                    left -= set(found[-1][column].to_pylist())
    return pa.concat_tables(found)
