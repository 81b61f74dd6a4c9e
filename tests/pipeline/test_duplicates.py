from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.duplicates import find_exact

Segment = tuple[str, list[int], list[int]]

runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=3)


def twins_of(*segments: Segment) -> dict[str, str]:
    return find_exact(
        (id, np.array(units, np.uint16), np.array(durations, np.uint16)) for id, units, durations in segments
    )


@given(contents=st.lists(runs, max_size=40))
def test_all_but_the_first_of_equal_segments_are_found(contents: list[list[tuple[int, int]]]) -> None:
    segments = [(str(i), [unit for unit, _ in run], [length for _, length in run]) for i, run in enumerate(contents)]
    first: dict[str, str] = {}
    expected = {}
    for id, *content in segments:
        if id != first.setdefault(str(content), id):
            expected[id] = first[str(content)]
    assert twins_of(*segments) == expected


def test_the_first_stays_and_is_named_by_every_twin() -> None:
    same = ([1, 2, 1], [3, 1, 7])
    assert twins_of(("a", *same), ("b", [1, 2], [3, 1]), ("c", *same), ("d", *same)) == {"c": "a", "d": "a"}


def test_equal_units_of_other_durations_are_no_twins() -> None:
    assert twins_of(("a", [1, 2], [3, 4]), ("b", [1, 2], [4, 3]), ("c", [1, 2], [3, 5])) == {}


def test_units_are_not_taken_for_durations() -> None:
    assert twins_of(("a", [1, 2], [3, 4]), ("b", [3, 4], [1, 2]), ("c", [1, 2, 3, 4], [1, 1, 1, 1])) == {}


def test_large_units_are_told_apart() -> None:
    assert twins_of(("a", [256], [1]), ("b", [1], [256]), ("c", [65535], [1]), ("d", [65534], [1])) == {}


def test_nothing_gives_nothing() -> None:
    assert find_exact([]) == {}
