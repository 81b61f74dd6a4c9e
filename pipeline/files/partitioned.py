"""Rows dealt out to partitions through files: how data of any size is brought together by a key in bounded memory.

Each of many tasks writes one file with all its rows, sorted by the partition that they belong to; a later task gathers
one partition from all of these files, in their order, by two small reads of each.

    int64 x (P + 1)   bytes at which each partition begins, and the end
    P Arrow streams   the rows of each; nothing where there are none
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
        uri: Of the file.
        table: The rows.
        partitions: [rows] where each belongs, below `num_partitions`.
        num_partitions: P.
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
    """The rows of one partition in each file; None where there are none."""
    with ThreadPoolExecutor(READ_THREADS) as threads:
        blobs = list(threads.map(lambda uri: _read(uri, partition), uris))
    return [pa.ipc.open_stream(blob).read_all() if blob else None for blob in blobs]


def gather_as_one(uris: Sequence[str], partition: int, schema: pa.Schema) -> pa.Table:
    """The rows of one partition in all files, which have these columns."""
    tables = [table for table in gather(uris, partition) if table is not None]
    return pa.concat_tables([schema.empty_table(), *tables])


def _read(uri: str, partition: int) -> bytes:
    start, end = np.frombuffer(storage.read_range(uri, 8 * partition, 16), "<i8").tolist()
    return storage.read_range(uri, start, end - start) if end > start else b""


def num_partitions(uri: str) -> int:
    """P of a file."""
    return int(np.frombuffer(storage.read_range(uri, 0, 8), "<i8")[0]) // 8 - 1
