"""Parquet files at any URI."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

ROW_GROUP_ROWS = 100_000
# Small files that are read ahead of the one that is asked for: a store takes its time for each.
FILES_AHEAD = 32


class DamagedFileError(TwistError):
    """A file that is not a whole Parquet file of its kind."""

    def __init__(self, uri: str, damage: object) -> None:
        super().__init__(
            f"{uri} is not a whole Parquet file of this kind ({damage}); delete it and run its stage again"
        )
        self.uri = uri


def to_bytes(table: pa.Table, row_group_size: int = ROW_GROUP_ROWS) -> bytes:
    """A table as the bytes of a Parquet file: the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size, write_page_checksum=True)
    return buffer.getvalue()


def groups_to_bytes(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Tables, of which one is in memory at a time, as the row groups of one Parquet file."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table, len(table))
    return buffer.getvalue()


def write(uri: str, table: pa.Table) -> None:
    """Writes a table, whole or not at all."""
    storage.write_bytes(uri, to_bytes(table))


def read(uri: str, columns: list[str] | None = None, dictionaries: Sequence[str] = ()) -> pa.Table:
    """Reads a table; the columns `dictionaries`, whose values come again and again, as each value once and numbers.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is not a whole Parquet file, or lacks one of `columns`.
    """
    with RowGroups(uri, columns, dictionaries) as groups:
        return groups.read_all()


def iterate(uri: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Reads a table a row group at a time, so that memory does not grow with the file.

    Raises:
        FileNotFoundError, DamagedFileError: as `read`, once the first row group is asked for.
    """
    with RowGroups(uri, columns) as groups:
        yield from groups


def read_schema(uri: str) -> pa.Schema:
    """The columns of a table.

    Raises:
        FileNotFoundError, TwistError: as `read`.
    """
    with RowGroups(uri) as groups:
        return groups.schema


def read_many(uris: Iterable[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Reads one small file after the other, with more of them under way.

    Raises:
        FileNotFoundError, DamagedFileError: as `read`, where the file's turn comes.
    """
    with ThreadPoolExecutor(FILES_AHEAD) as threads:
        under_way: deque[Future[pa.Table]] = deque()
        try:
            for uri in uris:
                under_way.append(threads.submit(read, uri, columns))
                if len(under_way) == FILES_AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def as_one(tables: Iterable[pa.Table]) -> pa.Table:
    """Many small tables of equal columns as one, which takes no more memory than its rows."""
    table = pa.concat_tables(tables).combine_chunks()
    # `read_many` leaves small holes everywhere, several times the size of what it reads.
    pa.default_memory_pool().release_unused()
    return table


class RowGroups:
    """A Parquet file that is read a row group at a time; closed by `with`.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is not a whole Parquet file, or lacks one of `columns`; also where reading finds damage.
    """

    def __init__(self, uri: str, columns: list[str] | None = None, dictionaries: Sequence[str] = ()) -> None:
        self._uri = uri
        self._columns = columns
        with _damage_named(uri), contextlib.ExitStack() as stack:
            source = stack.enter_context(_open(uri))
            self._file = stack.enter_context(
                pq.ParquetFile(source, read_dictionary=dictionaries, page_checksum_verification=True)
            )
            # Of a column that is not there, pyarrow says nothing.
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
        """The columns, all of them."""
        return self._file.schema_arrow

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """What was written beside the columns."""
        return dict(self._file.schema_arrow.metadata or {})

    def read(self, number: int) -> pa.Table:
        """One row group."""
        with _damage_named(self._uri):
            return self._file.read_row_group(number, self._columns, use_threads=False)

    def read_all(self) -> pa.Table:
        """All of them."""
        with _damage_named(self._uri):
            return self._file.read(self._columns, use_threads=False)

    def __iter__(self) -> Iterator[pa.Table]:
        return map(self.read, range(len(self)))


@contextlib.contextmanager
def _damage_named(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # pyarrow tells of damage through plain OSErrors too; a disk's or bucket's have a number or own type.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise DamagedFileError(uri, error) from error


def _open(uri: str) -> pa.NativeFile:
    # Not a Python file where that can be helped, nor threads: one of Arrow's that lets go of a Python object while the
    # interpreter ends aborts the process.
    if storage.is_s3(uri):
        return pa.BufferReader(storage.read_bytes(uri))
    storage.size(uri)  # for the errors that storage raises
    return pa.OSFile(uri)
