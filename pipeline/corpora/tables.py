"""The tables that corpora come with: CSV-like text, JSON lines, gzip-compressed or not."""

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
    """The lines of a text file, as they are asked for, without their ends; decompressed where its name ends in .gz.

    Split at newlines only, which text may hold others of. What is no UTF-8 is replaced: one bad letter must not cost a
    corpus.

    Raises:
        CorpusError: it is no whole gzip file.
    """
    with storage.open_read(uri) as file:
        content = gzip.GzipFile(fileobj=file) if uri.endswith(".gz") else file
        try:
            for line in io.TextIOWrapper(content, "utf-8-sig", errors="replace", newline="\n"):
                yield line.rstrip("\r\n")
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise CorpusError(f"{uri} is not a whole gzip file: {error}") from error


def read_columns(uri: str, delimiter: str, required: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows of a table whose first line names its columns; quotes are letters like any other.

    A row with too few fields lacks the last columns; one with too many is passed over, as its columns cannot be told.

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
    """The objects of a JSON-lines file.

    Raises:
        CorpusError: a line is not a JSON object.
    """
    for number, line in enumerate(read_lines(uri), start=1):
        if line.strip():
            yield parse_json(line, f"line {number} of {uri}")


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CorpusError: it is none.
    """
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"{text[:60]!r} is not an object")
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON: {error}") from error
    return value


def number(value: object) -> float | None:
    """A finite number that is not negative, as a corpus writes it; None where there is none."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < float("inf") else None
