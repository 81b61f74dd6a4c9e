"""The files of corpora of text: which there are, and in which pieces they are read."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.files import parquet, storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.text.config import TextCorpus

Format = Literal["txt", "jsonl", "parquet"]
FORMATS: dict[str, Format] = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
COMPRESSED = (".gz", ".zst")
READ_BYTES = 2**24


@dataclass(frozen=True)
class TextFile:
    """A file of a corpus; `source` is its path in the corpus' folder."""

    corpus: str
    uri: str
    source: str
    format: Format
    column: str
    document: Literal["file", "paragraph", "line"]
    num_bytes: int


@dataclass(frozen=True)
class Piece:
    """What one task reads of a file: row groups `start` to `end` (exclusive) of Parquet, else the lines that begin in
    bytes `start` to `end`. `first_row` is the row, or line, that it begins with.
    """

    number: int
    file: TextFile
    start: int
    end: int
    first_row: int = 0


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file, of which the lines are counted."""

    uri: str
    start: int
    end: int


def find_files(corpus: TextCorpus) -> list[TextFile]:
    """The files of a corpus, sorted by name.

    Raises:
        TwistError: there are none, or one file is named that is of no known format.
    """
    path = storage.absolute(corpus.path)
    if storage.exists(path):
        root, _, name = path.rpartition("/")
        names = [name]
    else:
        root, pattern = _at_first_wildcard(path)
        names = [name for name in storage.list_files(root) if not pattern or _matches(name, pattern)]
    known = [(name, kind) for name in names if (kind := format_of(name)) is not None]
    if not known:
        found = f"holds none of {', '.join(FORMATS)} (or {', '.join(COMPRESSED)})" if names else "matches no file"
        raise TwistError(f"text.corpora: {corpus.path} {found}; mend `path` of {corpus.label}")
    return [
        TextFile(corpus.label, uri, name, kind, corpus.column, corpus.document, storage.size(uri))
        for name, kind in known
        for uri in (storage.join(root, name),)
    ]


def format_of(name: str) -> Format | None:
    """The format of a file by its name; None if it is none that is read."""
    suffixes = PurePosixPath(name.lower()).suffixes
    if suffixes and suffixes[-1] in COMPRESSED and suffixes[-2:-1] != [".parquet"]:
        suffixes = suffixes[:-1]
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _at_first_wildcard(path: str) -> tuple[str, str]:
    """The folder above the first part with a wildcard, and the pattern below it; no pattern if there is none."""
    parts = path.split("/")
    first = next((place for place, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])


def _matches(name: str, pattern: str) -> bool:
    return PurePosixPath(f"/{name}").match(f"/{pattern}")


def pieces(
    files: Sequence[TextFile],
    piece_bytes: int,
    spread: Callable[[Callable[[Stretch], int], Sequence[Stretch]], Iterable[int]],
) -> Iterator[Piece]:
    """The pieces of files, of about so many bytes where a file can be parted.

    Args:
        files: The files.
        piece_bytes: Bytes of a piece.
        spread: Maps a function over items, as tasks: lines of large files are counted, so that each piece knows the
            number of its first.

    Raises:
        TwistError: Parquet is damaged, or lacks the column of text.
    """
    parted = {file.uri: _edges(file, piece_bytes) for file in files if _can_be_parted(file)}
    # A line belongs to the piece in which it begins: just behind a line end, maybe that of the piece before.
    stretches = [
        Stretch(uri, max(0, start - 1), end - 1) for uri, edges in parted.items() for start, end in pairwise(edges[:-1])
    ]
    counts = dict(zip(stretches, spread(count_lines, stretches) if stretches else (), strict=True))
    numbers = itertools.count()
    for file in files:
        if file.format == "parquet":
            yield from _of_parquet(file, piece_bytes, numbers)
            continue
        row = 0
        for start, end in pairwise(parted.get(file.uri, [0, file.num_bytes])):
            yield Piece(next(numbers), file, start, end, row + (start > 0))
            row += counts.get(Stretch(file.uri, max(0, start - 1), end - 1), 0)


def count_lines(stretch: Stretch) -> int:
    """The line ends in some bytes of a file."""
    num_lines, place = 0, stretch.start
    while place < stretch.end:
        content = storage.read_range(stretch.uri, place, min(READ_BYTES, stretch.end - place))
        num_lines += content.count(b"\n")
        if not content:
            break
        place += len(content)
    return num_lines


def _can_be_parted(file: TextFile) -> bool:
    is_of_lines = file.format == "jsonl" or (file.format == "txt" and file.document == "line")
    return is_of_lines and not file.uri.lower().endswith(COMPRESSED)


def _edges(file: TextFile, piece_bytes: int) -> list[int]:
    return [*range(0, max(1, file.num_bytes), piece_bytes), file.num_bytes]


def _of_parquet(file: TextFile, piece_bytes: int, numbers: Iterator[int]) -> Iterator[Piece]:
    with parquet.RowGroups(file.uri, in_ranges=True) as groups:
        _require_text(file, groups.schema)
        sizes = groups.sizes
    first = row = 0
    for end in range(1, len(sizes) + 1):
        if end == len(sizes) or sum(num_bytes for _, num_bytes in sizes[first : end + 1]) > piece_bytes:
            yield Piece(next(numbers), file, first, end, row)
            row += sum(num_rows for num_rows, _ in sizes[first:end])
            first = end


def _require_text(file: TextFile, schema: pa.Schema) -> None:
    if file.column not in schema.names:
        raise TwistError(f"{file.uri} has no column {file.column!r}{nearest(file.column, schema.names)}")
    kind = schema.field(file.column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise TwistError(f"{file.uri}: column {file.column!r} holds {kind}, not text; set `column` of {file.corpus}")


def nearest(name: str, known: Sequence[str]) -> str:
    """What to do about a column that is not there."""
    in_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), list(in_lower), n=1)
    if close:
        return f"; did you mean {in_lower[close[0]]!r}? Set `column` of its corpus"
    return f"; it has {', '.join(map(repr, known[:10]))}: set `column` of its corpus"
