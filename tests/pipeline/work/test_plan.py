"""Plans of work: the same chunks whether their rows are in one table or in many."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.read import Span
from pipeline.work.plan import Chunk, WorkPlan, name_chunks

ROUNDING = 1e-9
Rows = list[dict[str, object]]


def rows_of(sizes: list[int]) -> Rows:
    """Rows of chunks with these numbers of spans."""
    return [
        {
            "work_unit": f"c-{number:07d}",
            "id": f"{number}#{place}",
            "uri": f"/{number}.wav",
            "channel": None if place % 2 else 0,
            "start_s": float(place),
            "end_s": place + 0.5 + number,
        }
        for number, size in enumerate(sizes)
        for place in range(size)
    ]


def expected(rows: Rows) -> list[Chunk]:
    names = sorted({str(row["work_unit"]) for row in rows})
    groups = [[row for row in rows if row["work_unit"] == name] for name in names]
    return [
        Chunk(
            name,
            tuple(str(row["id"]) for row in group),
            tuple(Span(row["uri"], row["channel"], row["start_s"], row["end_s"]) for row in group),  # type: ignore[arg-type]
        )
        for name, group in zip(names, groups, strict=True)
    ]


@given(sizes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=5))
def test_units_are_the_rows_of_their_name_in_whatever_table(sizes: list[list[int]]) -> None:
    flat = rows_of([size for of_table in sizes for size in of_table])
    names = iter(sorted({str(row["work_unit"]) for row in flat}))
    groups = [{next(names) for _ in of_table} for of_table in sizes]
    tables = [pa.Table.from_pylist([row for row in flat if row["work_unit"] in group]) for group in groups]
    plan = WorkPlan(tables, tables.__getitem__, "id")
    chunks = expected(flat)
    assert list(plan) == chunks
    assert [plan[index] for index in reversed(range(len(plan)))] == chunks[::-1], (
        "units depend on what was asked before"
    )
    assert plan.names == [chunk.name for chunk in chunks]
    assert plan.num_items == len(flat)
    assert plan.durations_s == pytest.approx([chunk.duration_s for chunk in chunks])


def test_a_chunked_table_is_one() -> None:
    rows = rows_of([3, 2])
    whole = pa.Table.from_pylist(rows)
    chunked = pa.concat_tables([whole.slice(0, 2), whole.slice(2)])
    assert list(WorkPlan.of(chunked, "id")) == expected(rows)


def test_a_plan_of_nothing() -> None:
    plan = WorkPlan.of(pa.Table.from_pylist(rows_of([1])).slice(0, 0), "id")
    assert (len(plan), plan.num_items, list(plan)) == (0, 0, [])


def test_tables_are_read_when_their_units_are_asked_for() -> None:
    rows = rows_of([2] * 10)
    tables = [pa.Table.from_pylist(rows[first : first + 2]) for first in range(0, len(rows), 2)]
    asked: list[int] = []

    def read(number: int) -> pa.Table:
        asked.append(number)
        return tables[number]

    plan = WorkPlan(tables, read, "id")
    assert asked == []
    assert list(plan) == expected(rows)
    assert asked == list(range(10)), "each table is read once where chunks are taken in order"


def numbers(durations_s: list[float], chunk_s: float) -> list[int]:
    names = name_chunks(["a"] * len(durations_s), durations_s, chunk_s)
    return [int(name.removeprefix("a-")) for name in names]


def test_neighbours_share_a_unit_of_about_its_length() -> None:
    assert numbers([], 10) == []
    assert numbers([4, 4, 4, 4], 8) == [0, 0, 1, 1]
    assert numbers([100, 1, 1], 8) == [0, 1, 1]
    assert numbers([0.1] * 20, 1.0) == [0] * 10 + [1] * 10, "sums of 0.1 moved a span"


def test_chunks_of_a_corpus_do_not_depend_on_the_corpora_beside_it() -> None:
    alone = name_chunks(["b"] * 4, [4.0] * 4, 8.0)
    beside = name_chunks(["a"] * 3 + ["b"] * 4, [3.0] * 3 + [4.0] * 4, 8.0)
    assert alone == ["b-0000000"] * 2 + ["b-0000001"] * 2
    assert beside == ["a-0000000"] * 3 + alone


@given(st.lists(st.floats(0.1, 25.0), max_size=200), st.floats(1.0, 100.0))
def test_chunks_are_contiguous_and_of_about_the_wanted_size(durations_s: list[float], chunk_s: float) -> None:
    names = name_chunks(["a"] * len(durations_s), durations_s, chunk_s)
    assert len(names) == len(durations_s)
    assert names == sorted(names), "a chunk's spans are not neighbours, or chunks are out of order"
    assert sorted(set(names)) == [f"a-{number:07d}" for number in range(len(set(names)))], "numbers are left out"
    sizes = dict.fromkeys(names, 0.0)
    for name, duration_s in zip(names, durations_s, strict=True):
        sizes[name] += duration_s
    for name, size in sizes.items():
        assert size <= chunk_s + max(durations_s) + ROUNDING, f"unit {name} is too large"
    for a, b in itertools.pairwise(sizes.values()):
        assert a + b > chunk_s - max(durations_s), "two neighbouring chunks could have been one"
