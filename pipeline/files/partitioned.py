"""A shuffle through files: groups rows by partition in bounded memory, however many rows there are.

Each of many tasks writes one file with all its rows, sorted by partition. A later task gathers one partition from all
of these files, in the order of the files, with two small reads of each.

    int64 x (P + 1)   byte offset of each partition, then that of the end
    P Arrow streams   the rows of each partition; no bytes for an empty one
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

READ_THREADS = 8


def write(uri: str, table: pa.Table, partitions: NDArray[np.integer], num_partitions: int) -> None:
    """Writes a task's rows.

    Args:
        uri: The file to write.
        table: The rows.
        partitions: Partition of each row [rows], below `num_partitions`.
        num_partitions: Number of partitions, P.
    """
    order = np.argsort(partitions, kind="stable")
    table = table.take(pa.array(order))
    ends = np.searchsorted(partitions[order], np.arange(num_partitions), side="right")
    content = io.BytesIO()
    offsets = np.empty(num_partitions + 1, "<i8")
    offsets[0] = content.seek(offsets.nbytes)
    start = 0
    for partition, end in enumerate(ends.tolist()):
        if end > start:
            with pa.ipc.new_stream(content, table.schema) as writer:
                writer.write_table(table.slice(start, end - start).combine_chunks())
        offsets[partition + 1] = content.tell()
        start = end
    content.seek(0)
    content.write(offsets.tobytes())
    storage.write_bytes(uri, content.getbuffer())


def gather(uris: Sequence[str], partition: int) -> list[pa.Table | None]:
    """Reads one partition from each file: one table per file, None if the file has no such rows."""
    with ThreadPoolExecutor(READ_THREADS) as threads:
        blobs = list(threads.map(lambda uri: _read(uri, partition), uris))
    return [pa.ipc.open_stream(blob).read_all() if blob else None for blob in blobs]


def gather_as_one(uris: Sequence[str], partition: int, schema: pa.Schema) -> pa.Table:
    """Reads one partition from all files as one table with the columns of `schema`."""
    tables = [table for table in gather(uris, partition) if table is not None]
    return pa.concat_tables([schema.empty_table(), *tables])


def _read(uri: str, partition: int) -> bytes:
    start, end = np.frombuffer(storage.read_range(uri, 8 * partition, 16), "<i8").tolist()
    return storage.read_range(uri, start, end - start) if end > start else b""


def num_partitions(uri: str) -> int:
    """The number of partitions, P, in a file."""
    return int(np.frombuffer(storage.read_range(uri, 0, 8), "<i8")[0]) // 8 - 1
