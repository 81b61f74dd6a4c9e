"""Parquet files at any URI."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import TwistError


def to_bytes(table: pa.Table, row_group_size: int = 100_000) -> bytes:
    """A table as the bytes of a Parquet file: the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size, write_page_checksum=True)
    return buffer.getvalue()


def write(uri: str, table: pa.Table) -> None:
    """Writes a table, whole or not at all."""
    storage.write_bytes(uri, to_bytes(table))


def read(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Reads a table.

    Raises:
        FileNotFoundError: there is no such file.
        TwistError: it is not a whole Parquet file, or lacks one of `columns`.
    """
    try:
        with _open(uri) as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            # Of a column that is not there, pyarrow says nothing.
            if missing := set(columns or ()) - set(parquet.schema_arrow.names):
                raise pa.ArrowKeyError(f"it has no column {', '.join(sorted(missing))}")
            return parquet.read(columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        # pyarrow tells of damage through plain OSErrors too; a disk's or bucket's have a number or own type.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise TwistError(
            f"{uri} is not a whole Parquet file of this kind ({error}); delete it and run its stage again"
        ) from error


def _open(uri: str) -> pa.NativeFile:
    # Not a Python file where that can be helped, nor threads: one of Arrow's that lets go of a Python object while the
    # interpreter ends aborts the process.
    if storage.is_s3(uri):
        return pa.BufferReader(storage.read_bytes(uri))
    storage.size(uri)  # for the errors that storage raises
    return pa.OSFile(uri)
