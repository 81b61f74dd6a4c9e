"""Drawing of rows, and sums by group, over tables that come in pieces."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import group_sums
from pipeline.report.draw_rows import draw_rows
from pipeline.report.group_sums import GroupSums

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from("xy"), st.integers(0, 9)), max_size=60)


def pieces(rows: Sequence[tuple[str, str | None, int]], length: int) -> list[pa.Table]:
    """The rows as tables of at most `length` of them; `id` numbers all rows."""
    schema = pa.schema([("group", pa.string()), ("other", pa.string()), ("value", pa.int64()), ("id", pa.int64())])
    every = [dict(zip(schema.names, (*row, id), strict=True)) for id, row in enumerate(rows)]
    return [pa.Table.from_pylist(every[first : first + length], schema) for first in range(0, len(every), length)]


@given(ROWS, st.integers(1, 70), st.integers(0, 5), st.integers(0, 3))
def test_each_group_gives_as_many_rows_as_it_has_up_to_the_size(rows, length, size, seed):
    drawn = draw_rows(pieces(rows, length), "group", size, seed)
    assert {name: len(found) for name, found in drawn.items()} == {
        name: min(size, count) for name, count in Counter(group for group, _, _ in rows).items()
    }
    for name, found in drawn.items():
        ids = [row["id"] for row in found]
        assert len(set(ids)) == len(ids), "a row was drawn twice"
        assert all(rows[id][0] == name for id in ids)


@given(ROWS, st.integers(1, 70), st.integers(0, 3))
def test_the_same_seed_draws_the_same_rows(rows, length, seed):
    first, second = (draw_rows(pieces(rows, length), "group", 3, seed) for _ in range(2))
    assert first == second


@given(ROWS, st.integers(1, 70))
def test_preferred_rows_come_before_all_others(rows, length):
    for name, found in draw_rows(pieces(rows, length), "group", 3, 0, "value").items():
        values = sorted((value for group, _, value in rows if group == name), reverse=True)
        assert [row["value"] for row in found] == values[: len(found)]


def test_rows_of_a_group_are_equally_likely():
    tables = pieces([("a", None, 0)] * 10, 4)
    drawn = Counter(row["id"] for seed in range(600) for row in draw_rows(tables, "group", 2, seed)["a"])
    assert sum(drawn.values()) == 1200
    assert all(80 < drawn[id] < 160 for id in range(10)), drawn


@given(ROWS, st.integers(1, 70), st.sampled_from((1, 5, 1000)))
def test_sums_are_those_of_all_rows_however_they_come(rows, length, pending):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_sums, "PENDING_ROWS", pending)
        sums = GroupSums(["group", "other"], ["value"])
        for table in pieces(rows, length):
            sums.add(table)
        found = {(row["group"], row["other"]): (row["count"], row["value"]) for row in sums.rows()}
    expected: defaultdict[tuple[str, str | None], list[int]] = defaultdict(lambda: [0, 0])
    for group, other, value in rows:
        expected[group, other][0] += 1
        expected[group, other][1] += value
    assert found == {key: tuple(value) for key, value in expected.items()}
