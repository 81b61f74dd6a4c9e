"""URIs of audio: a file, or a part of one that is read in place.

    /data/a.flac                                        a file, local or s3://
    s3://b/x.tar#offset=1536&length=90210&member=a.flac a member of a tar: `length` bytes from `offset`
    /data/x.parquet#row_group=0&row=17&column=audio     a row of a Parquet file, counted within its row group: a struct
                                                        {bytes, path} as Hugging Face writes it, or plain bytes

Names of members and columns are percent-encoded. Archives are never unpacked, so no name in one is used as a path.
"""

from __future__ import annotations

import functools
import io
import re
import threading
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.files.range_reader import RangeReader

_MEMBER = re.compile(r"(?P<file>.+)#offset=(?P<offset>\d+)&length=(?P<length>\d+)&member=(?P<member>[^#]+)")
_ROW = re.compile(r"(?P<file>.+)#row_group=(?P<group>\d+)&row=(?P<row>\d+)&column=(?P<column>[^#&]+)")
# A larger member (a session of hours) is read in pieces, on demand.
LARGEST_READ_AT_ONCE = 16 * 2**20
# Row groups cached in each process: neighbouring rows are read in turn, perhaps by several threads.
CACHED_ROW_GROUPS = 2


@dataclass(frozen=True)
class TarMember:
    """Bytes `offset` to `offset + length` of an uncompressed tar."""

    file: str
    offset: int
    length: int
    member: str

    def __str__(self) -> str:
        # The name comes last, so that the URI ends in the member's suffix.
        return f"{self.file}#offset={self.offset}&length={self.length}&member={quote(self.member, safe='')}"


@dataclass(frozen=True)
class ParquetRow:
    """Row `row` of row group `row_group`, counted from 0 within the group."""

    file: str
    row_group: int
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.file}#row_group={self.row_group}&row={self.row}&column={quote(self.column, safe='')}"


def parse(uri: str) -> TarMember | ParquetRow | None:
    """The part of a file that a URI points to; None if it names a whole file."""
    if "#" not in uri:
        return None
    if match := _MEMBER.fullmatch(uri):
        return TarMember(match["file"], int(match["offset"]), int(match["length"]), unquote(match["member"]))
    if match := _ROW.fullmatch(uri):
        return ParquetRow(match["file"], int(match["group"]), int(match["row"]), unquote(match["column"]))
    return None


def open_read(uri: str, read_ahead_bytes: int | None = None) -> BinaryIO:
    """Opens a seekable reader of the audio bytes at `uri`.

    Args:
        uri: A file, or a part of one.
        read_ahead_bytes: Size of one request to S3; by default storage's.

    Raises:
        FileNotFoundError: there is no such file.
        TwistError: the file is not a Parquet file with this row.
    """
    place = parse(uri)
    if place is None:
        return _open_file(uri, read_ahead_bytes)
    if isinstance(place, ParquetRow):
        return io.BytesIO(_read_row(place))
    if place.length <= (read_ahead_bytes or LARGEST_READ_AT_ONCE):
        return io.BytesIO(storage.read_range(place.file, place.offset, place.length))
    part = _Part(_open_file(place.file, read_ahead_bytes), place.offset, place.length)
    return io.BufferedReader(part, read_ahead_bytes or io.DEFAULT_BUFFER_SIZE)


def _open_file(uri: str, read_ahead_bytes: int | None) -> io.BufferedReader:
    return storage.open_read(uri) if read_ahead_bytes is None else storage.open_read(uri, read_ahead_bytes)


class _Part(RangeReader):
    """A byte range of an open file, presented as a file; closing it closes the file."""

    def __init__(self, file: io.BufferedReader, offset: int, length: int) -> None:
        super().__init__(length, self._read)
        self._file = file
        self._offset = offset

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(self._offset + start)
        return self._file.read(length)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_parquet(uri: str) -> pq.ParquetFile:
    """Opens a Parquet file whose bytes are read on demand; use it in a `with` statement."""
    return pq.ParquetFile(storage.open_read(uri))


def _read_row(place: ParquetRow) -> bytes:
    with _row_groups_lock:
        column = _read_row_group(place.file, place.row_group, place.column)
    if place.row >= len(column):
        raise TwistError(f"{place}: row group {place.row_group} has {len(column)} rows")
    value = column[place.row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes")
    return bytes(value) if value is not None else b""


_row_groups_lock = threading.Lock()


@functools.lru_cache(CACHED_ROW_GROUPS)
def _read_row_group(file: str, row_group: int, column: str) -> Any:
    try:
        with open_parquet(file) as parquet:
            return parquet.read_row_group(row_group, [column], use_threads=False)[column]
    except (pa.ArrowException, KeyError, IndexError) as error:
        raise TwistError(f"{file}: cannot read column {column!r} of row group {row_group} ({error})") from error
