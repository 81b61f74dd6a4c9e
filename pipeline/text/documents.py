"""The documents of a file of text, one after the other, however large it is."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

import pyarrow as pa

from pipeline.errors import TwistError, brief
from pipeline.files import foreign_json, parquet, storage
from pipeline.text.files import COMPRESSED, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.text.files import Piece, TextFile

# No document is longer: a novel has a megabyte. As tokens in memory it takes up to forty times as much.
LONGEST_BYTES = 2**24


@dataclass(frozen=True)
class NoText:
    """Why a document is left out; `reason` is a word for counts."""

    reason: str
    detail: str


def read_documents(piece: Piece) -> Iterator[tuple[int, str | NoText]]:
    """The documents of a piece: each one's row (a row of Parquet, a line, a paragraph; from 0), and its text or why it
    has none.

    Raises:
        OSError: the file cannot be read.
    """
    if piece.file.format == "parquet":
        yield from _rows(piece)
        return
    read = {"jsonl": _json_lines, "txt": _plain}[piece.file.format]
    row = piece.first_row - 1
    try:
        with _opened(piece.file.uri) as content:
            for row, found in read(piece, content):
                yield row, found
    except (gzip.BadGzipFile, zlib.error, EOFError, pa.ArrowException) as error:
        yield row + 1, NoText("unreadable", f"{piece.file.uri} is damaged: {error}")


def require_column(file: TextFile) -> None:
    """Whether the first line of JSON lines has the column of text; other files are left alone.

    Raises:
        TwistError: it has another.
    """
    if file.format != "jsonl":
        return
    first: object = None
    # What cannot be read is told when its turn comes.
    with contextlib.suppress(gzip.BadGzipFile, zlib.error, EOFError, ValueError), _opened(file.uri) as content:
        first = foreign_json.parse(content.readline(LONGEST_BYTES))
    if isinstance(first, dict) and file.column not in first:
        raise TwistError(f"{file.uri} has no {file.column!r} in its first line{nearest(file.column, list(first))}")


def _rows(piece: Piece) -> Iterator[tuple[int, str | NoText]]:
    start = piece.first_row
    with parquet.RowGroups(piece.file.uri, [piece.file.column], in_ranges=True) as groups:
        for group in range(piece.start, piece.end):
            row = start
            try:
                for batch in groups.batches(group):
                    # As bytes: a writer need not have checked that they are UTF-8.
                    kind = pa.large_binary() if pa.types.is_large_string(batch.column(0).type) else pa.binary()
                    for content in batch.column(0).cast(kind).to_pylist():
                        where = f"row {row} of {piece.file.uri}"
                        yield row, _text(None, where) if content is None else _decoded(content, where)
                        row += 1
            except parquet.DamagedFileError as damage:
                yield row, NoText("unreadable", f"row group {group} of {piece.file.uri} is damaged: {damage.__cause__}")
            start += groups.sizes[group][0]


def _json_lines(piece: Piece, content: IO[bytes]) -> Iterator[tuple[int, str | NoText]]:
    for row, line in _numbered_lines(piece, content):
        where = f"line {row + 1} of {piece.file.uri}"
        if isinstance(line, NoText):
            yield row, NoText(line.reason, f"{where} {line.detail}")
        elif line.strip():
            yield row, _of_json(line, piece.file.column, where)


def _of_json(line: bytes, column: str, where: str) -> str | NoText:
    try:
        value = foreign_json.parse(line)
    except ValueError as error:
        return NoText("unreadable", f"{where} is no JSON: {error}")
    if not isinstance(value, dict):
        return NoText("unreadable", f"{where} is no JSON object: {brief(value)}")
    if column not in value:
        return NoText("no_text", f"{where} has no {column!r}")
    return _text(value[column], where)


def _plain(piece: Piece, content: IO[bytes]) -> Iterator[tuple[int, str | NoText]]:
    file = piece.file
    if file.document == "file":
        whole = content.read(LONGEST_BYTES + 1)
        remedy = "; set `document` of its corpus to paragraph or line"
        yield 0, _too_long(file.uri, remedy) if len(whole) > LONGEST_BYTES else _decoded(whole, file.uri)
        return
    if file.document == "line":
        for row, line in _numbered_lines(piece, content):
            where = f"line {row + 1} of {file.uri}"
            if isinstance(line, NoText):
                yield row, NoText(line.reason, f"{where} {line.detail}")
            elif line.strip():
                yield row, _decoded(line, where)
        return
    for row, paragraph in enumerate(_paragraphs(content)):
        where = f"paragraph {row + 1} of {file.uri}"
        yield row, _too_long(where) if paragraph is None else _decoded(paragraph, where)


def _paragraphs(content: IO[bytes]) -> Iterator[bytes | None]:
    """What blank lines part; None for one that is too long."""
    lines: list[bytes] = []
    num_bytes = 0
    for line in _lines(content):
        if isinstance(line, NoText):
            num_bytes = LONGEST_BYTES + 1
        elif line.strip():
            num_bytes += len(line)
            lines.append(line)
        elif num_bytes:
            yield b"".join(lines) if num_bytes <= LONGEST_BYTES else None
            lines, num_bytes = [], 0
        if num_bytes > LONGEST_BYTES:
            lines.clear()
    if num_bytes:
        yield b"".join(lines) if num_bytes <= LONGEST_BYTES else None


def _numbered_lines(piece: Piece, content: IO[bytes]) -> Iterator[tuple[int, bytes | NoText]]:
    """The lines that begin in the bytes of a piece; all lines of a compressed file, whose bytes are others."""
    is_compressed = piece.file.uri.lower().endswith(COMPRESSED)
    place = piece.start
    if place:
        # What began before it ends here, if only in a line end.
        content.seek(place - 1)
        place -= 1
        while line := content.readline(LONGEST_BYTES):
            place += len(line)
            if line.endswith(b"\n"):
                break
    lines = _lines(content)
    row = piece.first_row
    while (is_compressed or place < piece.end) and (line_or_none := next(lines, None)) is not None:
        yield row, line_or_none
        row += 1
        place = 0 if is_compressed else content.tell()


def _lines(content: IO[bytes]) -> Iterator[bytes | NoText]:
    while line := content.readline(LONGEST_BYTES + 1):
        if len(line) <= LONGEST_BYTES:
            yield line
            continue
        while not line.endswith(b"\n") and (line := content.readline(LONGEST_BYTES)):
            pass
        yield NoText("too_long", f"is longer than {LONGEST_BYTES:,} bytes")


def _too_long(where: str, remedy: str = "") -> NoText:
    return NoText("too_long", f"{where} is longer than {LONGEST_BYTES:,} bytes{remedy}")


def _decoded(content: bytes, where: str) -> str | NoText:
    try:
        return _text(content.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        return NoText("unreadable", f"{where} is no UTF-8 at byte {error.start}")


def _text(value: object, where: str) -> str | NoText:
    if value is None or (isinstance(value, str) and not value.strip()):
        return NoText("empty", f"{where} is empty")
    if not isinstance(value, str):
        return NoText("unreadable", f"{where} holds {brief(value)} in place of text")
    if len(value) > LONGEST_BYTES:
        return _too_long(where)
    try:
        value.encode()
    except UnicodeEncodeError:
        return NoText("unreadable", f"{where} holds half a character")
    return value.strip()


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[IO[bytes]]:
    with storage.open_read(uri) as file:
        if uri.endswith(".gz"):
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file))
        elif uri.endswith(".zst"):
            stream: Any = pa.CompressedInputStream(pa.PythonFile(file), "zstd")
            yield io.BufferedReader(stream, 2**20)
        else:
            yield file
