"""Tables that people write: CSV, or TSV by the suffix, in UTF-8, whose first line names the columns."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_rows(uri: str, required: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table, each with the number of the line that it ends on.

    Args:
        uri: The table, local or s3://.
        required: Columns that it must have; others may be there too, in any order.

    Raises:
        TwistError: there is no such table, it is no CSV in UTF-8, it lacks a column, or a row has another number of
            fields than the first line.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise TwistError(f"there is no table {uri}") from None
    except UnicodeDecodeError as error:
        raise TwistError(f"{uri} is not in UTF-8: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if uri.lower().endswith(".tsv") else ",")
    rows = []
    try:
        columns = next(reader, [])
        if missing := [name for name in required if name not in columns]:
            raise TwistError(f"{uri} lacks the columns {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(columns):
                raise TwistError(
                    f"{uri}, line {reader.line_num}: it has {len(fields)} fields; the first line names {len(columns)}"
                )
            rows.append((reader.line_num, dict(zip(columns, fields, strict=True))))
    except csv.Error as error:
        raise TwistError(f"{uri}, line {reader.line_num}: this is no CSV ({error})") from error
    return rows
