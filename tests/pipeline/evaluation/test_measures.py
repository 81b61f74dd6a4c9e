"""Figures, intervals and differences of tables of scores."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TwistError
from pipeline.evaluation.measures import Measure, difference, figure

RIGHT = Measure("right", "right")


def table(right, groups=None, **columns):
    names = [str(number) for number in range(len(right))]
    return pa.table({"item_id": names, "group": groups or names, "right": pa.array(right, pa.float64()), **columns})


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_an_accuracy_is_the_mean_of_the_points_and_lies_in_its_interval(points):
    found = figure(table(points), RIGHT, level=0.95, seed=0, num_draws=200)
    assert found.value == pytest.approx(np.mean(points))
    if len(points) > 1:
        assert 0 <= found.low <= found.high <= 1


def test_an_interval_is_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    found = figure(table(rng.integers(0, 2, 2000)), RIGHT, level=0.95, seed=1)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(0.25 / 2000), rel=0.1)


def test_a_geometric_mean_of_two_columns_is_that_of_their_means():
    counts = [True, True, True, False]
    items = table([0.5, 1.0, 0.0, 1.0], other=[0.2, 0.4, 0.6, 9.0], counts=counts)
    found = figure(items, Measure("both", "right", geometric_with="other", where="counts"), level=0.95, seed=0)
    assert found.value == pytest.approx(math.sqrt(0.5 * 0.4))
    assert 0 <= found.low <= found.value <= found.high
    assert found.num_items == 3


def test_items_of_one_group_are_no_independent_evidence():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2, 200)
    voices = np.repeat(words, 10)  # every voice says the same about a word
    alone = figure(table(words), RIGHT, level=0.95, seed=0)
    grouped = figure(table(voices, [str(word) for word in np.repeat(range(200), 10)]), RIGHT, level=0.95, seed=0)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_ratios_weights_and_conditions():
    items = table([1, 0, 1], words=[1, 2, 5], errors=[1, 0, 2], weight=[0.5, 0.5, 1.0], is_long=[False, True, True])
    value = {
        measure.name: figure(items, measure, level=0.9, seed=0).value
        for measure in (
            Measure("rate", "errors", "words"),
            Measure("long", "errors", "words", where="is_long"),
            Measure("weighted", "right", weight="weight"),
            Measure("exp", "errors", "words", exponential=True),
        )
    }
    assert value == pytest.approx({"rate": 3 / 8, "long": 2 / 7, "weighted": 0.75, "exp": math.exp(3 / 8)})


def test_a_mean_over_classes_gives_each_the_same_weight():
    items = table([1, 1, 0], kind=["common", "common", "rare"])
    assert figure(items, RIGHT, level=0.9, seed=0).value == pytest.approx(2 / 3)
    assert figure(items, Measure("macro", "right", mean_over="kind"), level=0.9, seed=0).value == pytest.approx(1 / 2)


def test_nothing_to_count_is_no_number():
    found = figure(table([1.0], never=[False]), Measure("none", "right", where="never"), level=0.9, seed=0)
    assert math.isnan(found.value)
    assert found.low is None


def test_a_paired_difference_is_surer_than_two_intervals():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 500).astype(float)
    second = first.copy()
    second[np.flatnonzero(first == 0)[:20]] = 1
    found = difference(table(first), table(second), RIGHT, level=0.95, seed=0)
    assert found.value == pytest.approx(20 / 500)
    assert 0 < found.low < found.value < found.high
    alone = figure(table(first), RIGHT, level=0.95, seed=0)
    assert found.high - found.low < (alone.high - alone.low) / 2
    assert found.mcnemar_p == pytest.approx(2 * 0.5**20)


def test_a_result_differs_from_itself_by_nothing():
    items = table([1, 0, 1, 1])
    found = difference(items, items, RIGHT, level=0.95, seed=0)
    assert (found.value, found.low, found.high, found.mcnemar_p) == (0, 0, 0, 1.0)


def test_ties_have_no_exact_test():
    assert difference(table([0.5, 1]), table([1, 1]), RIGHT, level=0.9, seed=0).mcnemar_p is None


def test_only_common_groups_are_compared():
    first, second = table([1, 0, 1]), table([1, 1, 1, 0]).slice(1)
    found = difference(first, second, RIGHT, level=0.9, seed=0)
    assert found.num_groups == 2
    assert found.value == pytest.approx(0.5)
    with pytest.raises(TwistError, match="no item in common"):
        difference(first, second.slice(2), RIGHT, level=0.9, seed=0)


def test_items_that_count_on_one_side_alone_are_not_compared():
    right = [1.0, 0.0, 1.0]
    first, second = table(right, ok=[False, True, True]), table(right, ok=[True, True, False])
    found = difference(first, second, Measure("right", "right", where="ok"), level=0.9, seed=0)
    assert (found.value, found.num_groups) == (0, 1)
