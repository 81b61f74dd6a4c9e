"""Parquet files at any URI."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.files.audio_uri import batch_rows
from pipeline.files.read_ahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROW_GROUP_ROWS = 100_000
# What is read by ranges: about a file's footer. Larger reads are single requests.
RANGE_BYTES = 2**16


class DamagedFileError(TwistError):
    """A file that is not a whole Parquet file of its kind."""

    def __init__(self, uri: str, damage: object) -> None:
        super().__init__(
            f"{uri} is not a whole Parquet file of this kind ({damage}); delete it and run its stage again"
        )
        self.uri = uri


def to_bytes(table: pa.Table, row_group_size: int = ROW_GROUP_ROWS) -> bytes:
    """Encodes a table as a Parquet file; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size, write_page_checksum=True)
    return buffer.getvalue()


def groups_to_bytes(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Encodes tables as the row groups of one Parquet file, holding one table in memory at a time."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table, len(table))
    return buffer.getvalue()


def write(uri: str, table: pa.Table) -> None:
    """Writes a table, whole or not at all."""
    storage.write_bytes(uri, to_bytes(table))


def read(uri: str, columns: list[str] | None = None, dictionaries: Sequence[str] = ()) -> pa.Table:
    """Reads a table.

    Args:
        uri: The file.
        columns: Columns to read; by default all.
        dictionaries: Columns of repetitive values, to be read dictionary-encoded.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is not a whole Parquet file, or lacks one of `columns`.
    """
    with RowGroups(uri, columns, dictionaries) as groups:
        return groups.read_all()


def read_unchanged(uri: str, columns: list[str], sha256: str) -> pa.Table:
    """Reads a table of a small file that must be as it was written.

    Pages have checksums, their headers have none: a bit that flips there may change values and nothing else.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: its sha256 (in hex) is another one, or it lacks one of `columns`.
    """
    content = storage.read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedFileError(uri, "its sha256 is another one than when it was written")
    with RowGroups(uri, columns, content=content) as groups:
        return groups.read_all()


def iterate(uri: str, columns: list[str] | None = None, *, in_ranges: bool = False) -> Iterator[pa.Table]:
    """Reads a table one row group at a time, so that memory does not grow with the file.

    An S3 object is in memory as a whole all the same, unless it is read `in_ranges` (RowGroups).

    Raises:
        FileNotFoundError, DamagedFileError: as `read`, when the first row group is requested.
    """
    with RowGroups(uri, columns, in_ranges=in_ranges) as groups:
        yield from groups


def read_schema(uri: str) -> pa.Schema:
    """Reads the names and types of a table's columns.

    Raises:
        FileNotFoundError, TwistError: as `read`.
    """
    with RowGroups(uri) as groups:
        return groups.schema


def read_many(uris: Iterable[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yields the tables of small files in order, reading some ahead.

    Raises:
        FileNotFoundError, DamagedFileError: as `read`, when that file's turn comes.
    """
    return read_ahead(functools.partial(read, columns=columns), uris)


def as_one(tables: Iterable[pa.Table]) -> pa.Table:
    """Joins many small tables with the same columns into one contiguous table and frees the memory left over."""
    table = pa.concat_tables(tables).combine_chunks()
    # `read_many` fragments the heap: the gaps are several times the size of the data.
    pa.default_memory_pool().release_unused()
    return table


class RowGroups:
    """A Parquet file that is read one row group at a time; use it in a `with` statement.

    Args:
        uri: The file.
        columns: Columns to read; by default all.
        dictionaries: Columns of repetitive values, to be read dictionary-encoded.
        in_ranges: Whether an S3 object is read by ranges, of each row group the columns alone: for files of others,
            which may have any size, and where little of one is wanted. Otherwise it is read whole, with a single
            request.
        content: The file's content, if it is at hand.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is not a whole Parquet file, or lacks one of `columns`. Reading may raise it later too.
    """

    def __init__(
        self,
        uri: str,
        columns: list[str] | None = None,
        dictionaries: Sequence[str] = (),
        *,
        in_ranges: bool = False,
        content: bytes | None = None,
    ) -> None:
        self._uri = uri
        self._columns = columns
        with _damage_named(uri), contextlib.ExitStack() as stack:
            opened = pa.BufferReader(content) if content is not None else _open(uri, in_ranges=in_ranges)
            source = stack.enter_context(opened)
            self._file = stack.enter_context(
                # Without pre_buffer all is read by the thread that asks for it; see _open.
                pq.ParquetFile(source, read_dictionary=dictionaries, page_checksum_verification=True, pre_buffer=False)
            )
            # pyarrow silently skips a column that the file lacks.
            if missing := set(columns or ()) - set(self._file.schema_arrow.names):
                raise pa.ArrowKeyError(f"it has no column {', '.join(sorted(missing))}")
            self._close = stack.pop_all()

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def __len__(self) -> int:
        return int(self._file.num_row_groups)

    @property
    def schema(self) -> pa.Schema:
        """All columns of the file, whichever are read."""
        return self._file.schema_arrow

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The schema's key-value metadata."""
        return dict(self._file.schema_arrow.metadata or {})

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Rows, and bytes before compression, of each row group."""
        groups = (self._file.metadata.row_group(number) for number in range(len(self)))
        return [(int(group.num_rows), int(group.total_byte_size)) for group in groups]

    def read(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """Reads row group `number`, counted from 0; `columns` are some of those that the file was opened for."""
        with _damage_named(self._uri):
            return self._file.read_row_group(number, columns or self._columns, use_threads=False)

    def batches(self, number: int) -> Iterator[pa.RecordBatch]:
        """Reads row group `number` of a file of others, few bytes at a time, and not if it unpacks to far more."""
        with _damage_named(self._uri):
            columns = self._columns or self._file.schema_arrow.names
            rows = batch_rows(self._file, number, columns)
            yield from self._file.iter_batches(rows, [number], columns, use_threads=False)

    def bounds(self, number: int, column: str) -> tuple[str, str] | None:
        """The smallest and the largest text of a column in row group `number`; None where the file does not say."""
        group = self._file.metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        statistics = next(chunk for chunk in chunks if chunk.path_in_schema == column).statistics
        return (statistics.min, statistics.max) if statistics is not None and statistics.has_min_max else None

    def read_all(self) -> pa.Table:
        """Reads all row groups as one table."""
        with _damage_named(self._uri):
            return self._file.read(self._columns, use_threads=False)

    def __iter__(self) -> Iterator[pa.Table]:
        return map(self.read, range(len(self)))


@contextlib.contextmanager
def _damage_named(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # pyarrow reports damage as a plain OSError too; an OSError of the disk or store has an errno or its own type.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise DamagedFileError(uri, error) from error


def _open(uri: str, *, in_ranges: bool) -> pa.NativeFile:
    # Avoid Python file objects (and Arrow's threads): an Arrow thread that releases a Python object while the
    # interpreter shuts down aborts the process.
    if storage.is_s3(uri) and in_ranges:
        return pa.PythonFile(storage.open_read(uri, RANGE_BYTES), mode="r")
    if storage.is_s3(uri):
        return pa.BufferReader(storage.read_bytes(uri))
    storage.size(uri)  # for the errors that storage raises
    return pa.OSFile(uri)
