"""Measures of units: against values worked out by hand, against scikit-learn, and at their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline.evaluation.unit_quality import labels_at, phone_agreement, same_words, unit_distance

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


def test_agreement_equals_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    phones = generator.integers(10, size=5000)
    units = np.where(generator.random(5000) < 0.6, 3 * phones + generator.integers(3, size=5000), 29)
    agreement = phone_agreement(units, phones)
    assert agreement.pnmi == pytest.approx(metrics.homogeneity_score(phones, units)), "information over phone entropy"
    table = metrics.cluster.contingency_matrix(phones, units)
    assert agreement.phone_purity == pytest.approx(table.max(axis=0).sum() / 5000)
    assert agreement.cluster_purity == pytest.approx(table.max(axis=1).sum() / 5000)


def test_agreement_at_its_bounds():
    phones = np.array([0, 0, 1, 1, 2, 2])
    perfect = phone_agreement(phones + 4, phones)
    assert (perfect.phone_purity, perfect.cluster_purity) == pytest.approx((1, 1))
    assert perfect.pnmi == pytest.approx(1)
    blind = phone_agreement(np.array([7, 7, 7, 7, 7, 7]), phones)
    assert (blind.phone_purity, blind.cluster_purity) == pytest.approx((1 / 3, 1))
    assert blind.pnmi == pytest.approx(0)
    assert phone_agreement(phones, np.zeros(6, np.int64)).pnmi == 0, "one phone has no entropy to take away"


def test_labels_are_those_in_force():
    times_s = np.array([0.0, 0.5, 0.999, 1.0, 7.0])
    assert labels_at(times_s, [0.1, 1.0, 2.0], [5, 6, 7]).tolist() == [5, 5, 5, 6, 7]


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
