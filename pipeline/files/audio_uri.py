"""URIs of audio: a file, or a part of one that is read in place.

    /data/a.flac                                        a file, local or s3://
    s3://b/x.tar#offset=1536&length=90210&member=a.flac a member of a tar: `length` bytes from `offset`
    /data/x.parquet#row_group=0&row=17&column=audio     a row of a Parquet file, counted within its row group: a struct
                                                        {bytes, path} as Hugging Face writes it, or plain bytes

Names of members and columns are percent-encoded. Archives are never unpacked, so no name in one is used as a path.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.files.range_reader import RangeReader

if TYPE_CHECKING:
    from collections.abc import Sequence

_MEMBER = re.compile(r"(?P<file>.+)#offset=(?P<offset>\d+)&length=(?P<length>\d+)&member=(?P<member>[^#]+)")
_ROW = re.compile(r"(?P<file>.+)#row_group=(?P<group>\d+)&row=(?P<row>\d+)&column=(?P<column>[^#&]+)")
# A larger member (a session of hours) is read in pieces, on demand.
LARGEST_READ_AT_ONCE = 16 * 2**20
# Of a Parquet file, in one request to a disk or the store.
PAGE_READ_BYTES = 2**20
# Rows that are decoded at once have about this many bytes, unless one has more.
BATCH_BYTES = 2**23
LARGEST_BATCH_ROWS = 1024
# Audio hardly gets smaller by compression, and tables of text by no more than this. A column that unpacks to more times
# its size is read row by row, and not at all if it has more bytes than the second: 33 kB can be 3 GB of zeros.
MOST_TIMES_UNPACKED = 64
MOST_BYTES_UNPACKED = 2**27
# Places in row groups at which each process goes on; as many threads can read one in turn.
MOST_CURSORS = 8
REMEMBERED_DAMAGE = 1_000


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


def path_of(uri: str) -> str | None:
    """The path of an audio file, in its tar if it is in one; None if it is a row of a table."""
    place = parse(uri)
    if isinstance(place, ParquetRow):
        return None
    return uri if place is None else place.member


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


def open_parquet(uri: str, read_ahead_bytes: int | None = None) -> pq.ParquetFile:
    """Opens a Parquet file whose bytes are read on demand, never a whole column at once; use it in a `with` statement.

    Closing it also closes the file below.
    """
    file = _open_file(uri, read_ahead_bytes)
    try:
        return pq.ParquetFile(file, buffer_size=PAGE_READ_BYTES, pre_buffer=False)
    except BaseException:
        file.close()
        raise


def batch_rows(parquet: pq.ParquetFile, row_group: int, columns: Sequence[str]) -> int:
    """How many rows of some columns to read at a time, so that few bytes are in memory.

    Rows are of very different sizes only in files that nobody should read; the mean is what the footer tells.

    Raises:
        pa.ArrowInvalid: the columns unpack to far more than they take in the file, as no corpus' do.
    """
    group = parquet.metadata.row_group(row_group)
    tops = set(columns)
    chunks = [group.column(place) for place in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in tops]
    num_bytes = sum(chunk.total_uncompressed_size for chunk in chunks)
    if num_bytes > MOST_TIMES_UNPACKED * sum(chunk.total_compressed_size for chunk in chunks):
        if num_bytes > MOST_BYTES_UNPACKED:
            raise pa.ArrowInvalid(
                f"{', '.join(sorted(tops))} would unpack to {num_bytes:,} bytes, more than {MOST_TIMES_UNPACKED} times "
                f"their size in the file"
            )
        return 1
    mean_bytes = num_bytes / max(1, group.num_rows)
    return max(1, min(LARGEST_BATCH_ROWS, int(BATCH_BYTES / max(1.0, mean_bytes))))


def is_damage(error: BaseException) -> bool:
    """Whether an error in reading Parquet says that the file is damaged, which may be a plain OSError."""
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


class _Cursor:
    """Reads a column of a row group from its first row to its last, a few rows at a time."""

    def __init__(self, file: str, row_group: int, column: str) -> None:
        self._parquet = open_parquet(file)
        try:
            self.num_rows = self._parquet.metadata.row_group(row_group).num_rows
            rows = batch_rows(self._parquet, row_group, [column])
            self._batches = self._parquet.iter_batches(
                rows, row_groups=[row_group], columns=[column], use_threads=False
            )
            self.first_row = 0
            self._column: Any = ()
            if column not in self._parquet.schema_arrow.names:
                raise KeyError(column)
        except BaseException:
            self.close()
            raise

    def read(self, row: int) -> Any:
        """The value of a row that is not before `first_row`."""
        while row >= self.first_row + len(self._column):
            self.first_row += len(self._column)
            self._column = ()  # frees a batch before the next is read
            self._column = next(self._batches).column(0)
        return self._column[row - self.first_row]

    def close(self) -> None:
        self._parquet.close(force=True)


class _Cursors:
    """Cursors of one process, so that rows asked for in their order are decoded once.

    Threads ask for rows of one group in several orders at once: each goes on with the cursor that is the least way
    before its row. What cannot be read is remembered, not tried again for each row.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cursors: OrderedDict[_Cursor, tuple[str, int, str]] = OrderedDict()
        self._damage: OrderedDict[tuple[str, int, str], str] = OrderedDict()

    def read(self, place: ParquetRow) -> Any:
        key = (place.file, place.row_group, place.column)
        with self._lock:
            if key in self._damage:
                raise TwistError(self._damage[key])
            try:
                return self._read(key, place)
            except (pa.ArrowException, KeyError, IndexError, StopIteration, OSError) as error:
                for cursor in [cursor for cursor, of in self._cursors.items() if of == key]:
                    self._close(cursor)
                if isinstance(error, OSError) and not is_damage(error):
                    raise
                damage = (
                    f"{place.file}: cannot read column {place.column!r} of row group {place.row_group} "
                    f"({error or 'it ends before its last row'})"
                )
                self._damage[key] = damage
                if len(self._damage) > REMEMBERED_DAMAGE:
                    self._damage.popitem(last=False)
                raise TwistError(damage) from error

    def _read(self, key: tuple[str, int, str], place: ParquetRow) -> Any:
        before = [cursor for cursor, of in self._cursors.items() if of == key and cursor.first_row <= place.row]
        if before:
            cursor = max(before, key=lambda cursor: cursor.first_row)
        else:
            while len(self._cursors) >= MOST_CURSORS:
                self._close(next(iter(self._cursors)))
            cursor = _Cursor(*key)
            self._cursors[cursor] = key
        self._cursors.move_to_end(cursor)
        if place.row >= cursor.num_rows:
            raise TwistError(f"{place}: row group {place.row_group} has {cursor.num_rows} rows")
        return cursor.read(place.row)

    def _close(self, cursor: _Cursor) -> None:
        del self._cursors[cursor]
        cursor.close()


_cursors = _Cursors()


def _forget_cursors() -> None:
    # A forked process must not move the places in files that its parent has open, nor take over a lock.
    global _cursors
    _cursors = _Cursors()


os.register_at_fork(after_in_child=_forget_cursors)


def _read_row(place: ParquetRow) -> bytes:
    value = _cursors.read(place)
    if pa.types.is_struct(value.type):
        if not value.is_valid:
            return b""
        value = value["bytes"]
    return value.as_buffer().to_pybytes() if value.is_valid else b""
