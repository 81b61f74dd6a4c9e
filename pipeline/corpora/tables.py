"""Reads the tables of corpora: CSV-like text and JSON lines, gzip-compressed or not."""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import zlib
from collections import deque
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from pipeline.corpora.source import CorpusError
from pipeline.files import foreign_json, storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.corpora.source import Notices

Text = TypeVar("Text", str, bytes)
# A longer line of a table is none: the longest there are describe a day of speech, in a few megabytes.
MAX_LINE_BYTES = 2**24
_GZIP = b"\x1f\x8b"


def read_lines(uri: str) -> Iterator[str]:
    r"""Yields the lines of a text file without line ends; decompresses what gzip has compressed.

    Lines are split only at \n: other line separators may be part of the text; at \r if the file has no \n.

    Raises:
        CorpusError: a compressed file is damaged, or a line is longer than MAX_LINE_BYTES.
    """
    with storage.open_read(uri) as file:
        is_compressed = file.read(len(_GZIP)) == _GZIP or uri.endswith(".gz")
        file.seek(0)
        content = cast("IO[bytes]", gzip.GzipFile(fileobj=file) if is_compressed else file)
        try:
            first = _line(content, uri)
            if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                content.seek(0)
                text = io.TextIOWrapper(content, "utf-16", errors="replace", newline="\n")
                yield from (line.rstrip("\r\n") for line in iter(lambda: _line(text, uri), ""))
                return
            following = iter(lambda: _line(content, uri), b"")
            for line in itertools.chain([first.removeprefix(codecs.BOM_UTF8)], following):
                if line.endswith(b"\n") or b"\r" not in line:
                    if line or first:
                        yield decode(line).rstrip("\r\n")
                else:
                    yield from decode(line).rstrip("\r").split("\r")
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise CorpusError(f"{uri} is not a whole gzip file: {error}") from error


def _line(file: IO[Text], uri: str) -> Text:
    line = file.readline(MAX_LINE_BYTES + 1)
    if len(line) > MAX_LINE_BYTES:
        raise CorpusError(f"{uri} has a line of more than {MAX_LINE_BYTES} bytes, so it is no table; leave it out")
    return line


def decode(line: bytes) -> str:
    """Decodes a line of UTF-8; one that is none is taken for Windows' Western text, as one of another hand."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


def read_columns(
    uri: str,
    delimiter: str,
    required: Sequence[str] = (),
    free_text: Sequence[str] = (),
    notices: Notices | None = None,
    key: tuple[str, Callable[[str], bool]] | None = None,
) -> Iterator[dict[str, str]]:
    """Yields the rows of a table whose first line names its columns; quotes have no special meaning.

    A row with too few fields lacks the last columns. A column of `free_text` may hold delimiters and line ends: the
    columns before the first and after the last such column are then found from the two ends of the row. Where no
    column is free text, a row with too many fields is skipped, as its columns cannot be told.

    Args:
        uri: The table.
        delimiter: What is between fields.
        required: Columns that it must have, in any case.
        free_text: Columns in which people write what they like.
        notices: Is told the rows that cannot be read, or only in part.
        key: A column before the free text, and whether a value of it is one: a line without belongs to the row before,
            whose free text holds both a delimiter and a line end.

    Raises:
        CorpusError: the table lacks a required column.
    """
    lines = enumerate(read_lines(uri), start=1)
    first = next(lines, (1, ""))[1]
    if "\r" in first:  # lines end in it, but for a last \n
        lines = enumerate((line for _, text in [(1, first), *lines] for line in text.split("\r")), start=1)
        first = next(lines)[1]
    header = [name.strip().strip('"') for name in first.split(delimiter)]
    in_any_case = {name.lower(): name for name in (*free_text, *required)}
    header = [name if name in in_any_case.values() else in_any_case.get(name.lower(), name) for name in header]
    if missing := [name for name in required if name not in header]:
        raise CorpusError(
            f"{uri} has no column {missing[0]!r}; its first line names {', '.join(filter(None, header)) or 'none'}"
        )
    free = [place for place, name in enumerate(header) if name in free_text]
    # What stands between free texts cannot be told in a row of too many fields.
    needed = [name for name in required if not free or not free[0] <= header.index(name) <= free[-1]]
    split_lines: Iterator[tuple[int, list[str]]] = ((place, line.split(delimiter)) for place, line in lines)
    if key is not None and free and key[0] in header[: free[0]]:
        split_lines = _with_what_follows(split_lines, len(header), free, header.index(key[0]), key[1])
    for number_of_line, row in _rows(split_lines, len(header), free):
        if len(row) > len(header):
            if notices is not None and len(free) > 1:
                notices.add(
                    "unreadable_row", f"line {number_of_line} of {uri} has {len(row)} fields, not {len(header)}"
                )
            told = _from_both_ends(header, row, free) if free else {}
        else:
            told = dict(zip(header, row, strict=False))
        if all(name in told for name in needed):
            yield told
        elif notices is not None:
            notices.add("unreadable_row", f"line {number_of_line} of {uri} has {len(row)} fields, not {len(header)}")


def _from_both_ends(header: Sequence[str], row: Sequence[str], free: Sequence[int]) -> dict[str, str]:
    """The fields of a row of too many, before and after free text; and that, if it is a single column."""
    after = len(row) - (len(header) - 1 - free[-1])
    told = {
        **dict(zip(header[: free[0]], row, strict=False)),
        **dict(zip(header[free[-1] + 1 :], row[after:], strict=True)),
    }
    if len(free) == 1:
        told[header[free[0]]] = " ".join(row[free[0] : after])
    return told


# A text of more lines than this is none.
_MOST_LINES_OF_A_TEXT = 100


def _with_what_follows(
    lines: Iterator[tuple[int, list[str]]],
    num_columns: int,
    free: Sequence[int],
    key_column: int,
    is_key: Callable[[str], bool],
) -> Iterator[tuple[int, list[str]]]:
    """Joins to each line with a key the lines without one that follow it, if they can be its free text."""
    begun: list[tuple[int, list[str]]] = []

    def joined() -> Iterator[tuple[int, list[str]]]:
        rest = begun[1:]
        while rest and rest[-1][1] == [""]:
            rest.pop()
        # Behind a complete row, a line without any delimiter is no part of text that is followed by other columns.
        has_room = len(begun[0][1]) < num_columns or free[-1] == num_columns - 1
        if len(rest) > _MOST_LINES_OF_A_TEXT or not (has_room or any(len(fields) > 1 for _, fields in rest)):
            yield from begun
            return
        place, row = begun[0]
        for _, fields in rest:
            row = [*row[:-1], f"{row[-1]} {fields[0]}".strip(), *fields[1:]]
        yield place, row

    for place, fields in lines:
        if begun and len(fields) > key_column and is_key(fields[key_column]):
            yield from joined()
            begun = []
        begun.append((place, fields))
        if len(begun) > 2 * _MOST_LINES_OF_A_TEXT:  # a table without keys
            yield from begun
            begun = []
    if begun:
        yield from joined()


def _rows(
    lines: Iterator[tuple[int, list[str]]], num_columns: int, free: Sequence[int]
) -> Iterator[tuple[int, list[str]]]:
    """Yields the fields of each row, with the number of its first line; joins what a line end in free text broke."""
    waiting: deque[tuple[int, list[str]]] = deque()

    def fill(count: int) -> bool:
        while len(waiting) < count and (following := next(lines, None)) is not None:
            waiting.append(following)
        return len(waiting) >= count

    while fill(1):
        place, row = waiting.popleft()
        is_broken = free and len(row) < num_columns and free[0] <= len(row) - 1 <= free[-1]
        joined = row
        for count in range(1, _MOST_LINES_OF_A_TEXT if is_broken else 0):
            if not fill(count) or len(joined) + len(waiting[count - 1][1]) - 1 > num_columns:
                break
            following = waiting[count - 1][1]
            joined = [*joined[:-1], f"{joined[-1]} {following[0]}".strip(), *following[1:]]
            if len(joined) == num_columns and len(following) > 1:
                row = joined
                for _ in range(count):
                    waiting.popleft()
                break
        if row != [""]:
            yield place, row


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
        value = foreign_json.parse(text)
        if not isinstance(value, dict):
            raise ValueError(f"{text[:60]!r} is not an object")
    except ValueError as error:
        raise CorpusError(f"{where} is not JSON: {error}") from error
    return value


def number(value: object) -> float | None:
    """Parses a number from a corpus' table; None unless it is finite and not negative."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < float("inf") else None
