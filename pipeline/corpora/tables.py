"""Reads the tables of corpora: CSV-like text and JSON lines, gzip-compressed or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING, Any

from pipeline.corpora.source import CorpusError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def read_lines(uri: str) -> Iterator[str]:
    r"""Yields the lines of a text file without line ends; decompresses the file if its name ends in .gz.

    Lines are split only at \n: other line separators may be part of the text. Invalid UTF-8 is replaced: one bad
    character must not cost a corpus.

    Raises:
        CorpusError: a .gz file is damaged.
    """
    with storage.open_read(uri) as file:
        content = gzip.GzipFile(fileobj=file) if uri.endswith(".gz") else file
        try:
            for line in io.TextIOWrapper(content, "utf-8-sig", errors="replace", newline="\n"):
                yield line.rstrip("\r\n")
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise CorpusError(f"{uri} is not a whole gzip file: {error}") from error


def read_columns(uri: str, delimiter: str, required: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Yields the rows of a table whose first line names its columns; quotes have no special meaning.

    A row with too few fields lacks the last columns; one with too many is skipped, as its columns cannot be told.

    Raises:
        CorpusError: the table lacks a required column.
    """
    reader = csv.reader(read_lines(uri), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    csv.field_size_limit(2**31 - 1)
    header = [name.strip() for name in next(reader, [])]
    if missing := [name for name in required if name not in header]:
        raise CorpusError(f"{uri} has no column {missing[0]!r}; its first line names {', '.join(header) or 'none'}")
    for row in reader:
        if row and len(row) <= len(header):
            yield dict(zip(header, row, strict=False))


def read_json_lines(uri: str) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSON-lines file.

    Raises:
        CorpusError: a line is not a JSON object.
    """
    for number, line in enumerate(read_lines(uri), start=1):
        if line.strip():
            yield parse_json(line, f"line {number} of {uri}")


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Parses a JSON object; `where` says in the error which text it was.

    Raises:
        CorpusError: the text is not a JSON object.
    """
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"{text[:60]!r} is not an object")
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON: {error}") from error
    return value


def number(value: object) -> float | None:
    """Parses a number from a corpus' table; None unless it is finite and not negative."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < float("inf") else None
