from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.files import partitioned


@given(
    files=st.lists(st.lists(st.integers(0, 4), max_size=20), min_size=1, max_size=4),
    num_partitions=st.integers(5, 7),
)
def test_every_row_comes_to_its_partition_in_order(
    files: list[list[int]], num_partitions: int, tmp_path_factory
) -> None:
    folder: Path = tmp_path_factory.mktemp("partitioned")
    uris = []
    for number, partitions in enumerate(files):
        rows = [f"{number}-{place}" for place in range(len(partitions))]
        table = pa.table({"row": rows, "list": [[place] * place for place in range(len(rows))]})
        uris.append(str(folder / f"{number}.partitioned"))
        partitioned.write(uris[-1], table, np.array(partitions, np.int64), num_partitions)
        assert partitioned.num_partitions(uris[-1]) == num_partitions
    for partition in range(num_partitions):
        tables = partitioned.gather(uris, partition)
        found = [row for table in tables if table is not None for row in table["row"].to_pylist()]
        assert found == [
            f"{number}-{place}"
            for number, partitions in enumerate(files)
            for place, wanted in enumerate(partitions)
            if wanted == partition
        ]


def test_files_on_s3_are_read_too(folder: str) -> None:
    table = pa.table({"row": [3, 1, 2]})
    partitioned.write(f"{folder}/a.partitioned", table, np.array([1, 0, 1]), 3)
    found = [partitioned.gather([f"{folder}/a.partitioned"], partition)[0] for partition in range(3)]
    assert [table and table["row"].to_pylist() for table in found] == [[1], [3, 2], None]
