"""Edit distances of units, and whether the same words are told by them: on values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.units.same_words import same_words, unit_distance

sequences = st.lists(st.integers(0, 3), max_size=8).map(lambda units: np.array(units, np.uint16))


def edit_distance(first: list[int], second: list[int]) -> int:
    if not first or not second:
        return len(first) + len(second)
    return min(
        edit_distance(first[1:], second) + 1,
        edit_distance(first, second[1:]) + 1,
        edit_distance(first[1:], second[1:]) + (first[0] != second[0]),
    )


@given(first=sequences.filter(lambda units: len(units) <= 5), second=sequences.filter(lambda units: len(units) <= 5))
def test_distance_is_levenshteins(first, second):
    longest = max(len(first), len(second), 1)
    assert unit_distance(first, second) == pytest.approx(edit_distance(first.tolist(), second.tolist()) / longest)


@given(first=sequences, second=sequences)
def test_distance_is_symmetric_and_zero_for_the_same_alone(first, second):
    assert unit_distance(first, second) == unit_distance(second, first)
    assert (unit_distance(first, second) == 0) == (first.tolist() == second.tolist())
    assert 0 <= unit_distance(first, second) <= 1


def test_the_same_words_are_told_from_others_of_like_length():
    a, b, c = (np.array(units, np.uint16) for units in ([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 9, 9, 9, 9, 9, 9]))
    by_ear = {"one": {"x": a, "y": a}, "two": {"x": b, "y": b}, "long": {"x": c, "y": c}}
    told = same_words(by_ear)
    assert (told.share_closer, told.distance_ratio, told.num_comparisons) == (1.0, 0.0, 6)
    mute = {"one": {"x": a, "y": a}, "two": {"x": a, "y": a}}
    assert (same_words(mute).share_closer, same_words(mute).distance_ratio) == (0.5, 1.0)
    deaf = {"one": {"x": a, "y": b}, "two": {"x": b, "y": a}}
    assert same_words(deaf).share_closer == 0.0
    half = {"one": {"x": a, "y": b}, "two": {"x": a, "y": b}}
    assert same_words(half).share_closer == 0.5, "ties count half"
