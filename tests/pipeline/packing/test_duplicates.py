from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.files import parquet, partitioned
from pipeline.packing.duplicates import LANDMARK_SCHEMA, MAX_ALL_PAIRS, PAIR_SCHEMA, Propose, ShareLandmarks, find_exact


@given(contents=st.lists(st.integers(0, 9), max_size=40), seed=st.integers(0, 9))
def test_the_first_of_each_content_stays(contents: list[int], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(contents))[: max(0, len(contents) - 3)]
    halves = (np.array(contents, np.uint64) // np.uint64(3), np.array(contents, np.uint64) % np.uint64(3))
    gone, twins = find_exact(halves, order)
    first: dict[int, int] = {}
    expected = {}
    for row in order.tolist():
        if contents[row] in first:
            expected[row] = first[contents[row]]
        else:
            first[contents[row]] = row
    assert dict(zip(gone.tolist(), twins.tolist(), strict=True)) == expected


@given(
    keys=st.lists(st.integers(0, 12), max_size=60),
    num_files=st.integers(1, 3),
    num_partitions=st.integers(1, 3),
)
def test_shared_landmarks_pair_up_their_segments(
    keys: list[int], num_files: int, num_partitions: int, tmp_path_factory
) -> None:
    """Here each segment has one landmark; if many segments share it, each pairs with the first only."""
    folder = tmp_path_factory.mktemp("landmarks")
    edges = [len(keys) * number // num_files for number in range(num_files + 1)]
    files = []
    for number in range(num_files):
        part = np.array(keys[edges[number] : edges[number + 1]], np.uint64)
        columns = [part, np.arange(len(part), dtype=np.uint32), np.full(len(part), 5 * number, np.uint16)]
        files.append(str(folder / f"{number}.scatter"))
        partitions = (part % np.uint64(num_partitions)).astype(np.int64)
        partitioned.write(files[-1], pa.table(columns, schema=LANDMARK_SCHEMA), partitions, num_partitions)
    share = ShareLandmarks(str(folder), tuple(files), tuple(edges[:-1]))
    targets = [share.pairs_uri(partition) for partition in range(num_partitions)]
    for partition in range(num_partitions):
        share(partition)
    found = []
    for partition in range(num_partitions):
        for table in partitioned.gather(targets, partition):
            if table is not None:
                found += list(zip(*(table[name].to_pylist() for name in PAIR_SCHEMA.names), strict=True))
    frame_of = {row: 5 * number for number in range(num_files) for row in range(edges[number], edges[number + 1])}
    expected = []
    for key in set(keys):
        rows = [row for row, other in enumerate(keys) if other == key]
        lefts = rows if len(rows) <= MAX_ALL_PAIRS else rows[:1]
        expected += [(a, b, frame_of[a] - frame_of[b], frame_of[a]) for a in lefts for b in rows if a < b]
    assert sorted(found) == sorted(expected)


def test_a_common_landmark_is_work_for_all_partitions(tmp_path) -> None:
    """Each segment pairs with the first one: if pairs were partitioned by that, one task would get them all."""
    num_rows, num_partitions = 1000, 4
    columns = [np.zeros(num_rows, np.uint64), np.arange(num_rows, dtype=np.uint32), np.zeros(num_rows, np.uint16)]
    source = str(tmp_path / "landmarks.scatter")
    partitioned.write(source, pa.table(columns, schema=LANDMARK_SCHEMA), np.zeros(num_rows, np.int64), num_partitions)
    share = ShareLandmarks(str(tmp_path), (source,), (0,))
    share(0)
    sizes = [len(partitioned.gather([share.pairs_uri(0)], partition)[0] or ()) for partition in range(num_partitions)]
    assert sum(sizes) == num_rows - 1
    assert max(sizes) - min(sizes) <= 1


def test_candidates_are_those_that_agree_on_a_lag(tmp_path) -> None:
    def pairs(left: int, right: int, lags: list[int]) -> list[tuple[int, int, int, int]]:
        return [(left, right, lag, 30 * number) for number, lag in enumerate(lags)]

    rows = [*pairs(0, 1, [7, 7, 8, 40, -9]), *pairs(0, 2, [7, 20, 33, 50]), *pairs(1, 2, [-3, -3, -2])]
    table = pa.Table.from_pylist([dict(zip(PAIR_SCHEMA.names, row, strict=True)) for row in rows], schema=PAIR_SCHEMA)
    source = str(tmp_path / "pairs.scatter")
    partitioned.write(source, table, np.zeros(len(rows), np.int64), 1)
    propose = Propose(str(tmp_path), (source,), landmark_units=2)
    propose(0)
    target = propose.candidates_uri(0)
    assert [(row["left"], row["right"]) for row in parquet.read(target).to_pylist()] == [(0, 1), (1, 2)]
    assert [row["lag"] for row in parquet.read(target).to_pylist()] == [8, -2]
