"""Distances of sequences: against one cell after the other, on printed values, and at the bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.units import dtw
from pipeline.evaluation.units.dtw import angular, dtw_distances, unequal

sequences = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(np.array)
# Small whole numbers make ties and vectors of zeros.
features = st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=1, max_size=4).map(
    lambda rows: np.array(rows, np.float32)
)


def euclidean(first, second):
    return np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=-1))


def cell_by_cell(local: np.ndarray) -> float:
    """Fills the matrix of costs, then walks back from its end, as scorers of ABX do."""
    cost = np.full((local.shape[0] + 1, local.shape[1] + 1), np.inf)
    cost[0, 0] = 0.0
    for i, row in enumerate(local):
        for j, distance in enumerate(row):
            cost[i + 1, j + 1] = distance + min(cost[i, j], cost[i + 1, j], cost[i, j + 1])
    i, j, length = len(local), len(local[0]), 1
    while (i, j) != (1, 1):
        diagonal, left, up = cost[i - 1, j - 1], cost[i, j - 1], cost[i - 1, j]
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        length += 1
    return float(cost[-1, -1] / length)


@given(rows=st.lists(sequences, min_size=1, max_size=4), columns=st.lists(sequences, min_size=1, max_size=4))
def test_distances_of_units_are_those_found_cell_by_cell(rows, columns):
    expected = [[cell_by_cell(unequal(row, column)) for column in columns] for row in rows]
    assert dtw_distances(rows, columns, unequal) == pytest.approx(np.array(expected), abs=1e-12)


@given(rows=st.lists(features, min_size=1, max_size=4), columns=st.lists(features, min_size=1, max_size=4))
def test_distances_of_features_are_those_found_cell_by_cell(rows, columns):
    expected = [[cell_by_cell(angular(row, column)) for column in columns] for row in rows]
    assert dtw_distances(rows, columns, angular) == pytest.approx(np.array(expected), abs=1e-6)


def test_distances_do_not_depend_on_how_many_fit_into_memory(monkeypatch):
    generator = np.random.default_rng(0)
    rows, columns = ([generator.integers(5, size=generator.integers(1, 9)) for _ in range(count)] for count in (20, 15))
    whole = dtw_distances(rows, columns, unequal)
    monkeypatch.setattr(dtw, "FRAME_PAIRS_AT_ONCE", 100)
    assert np.array_equal(dtw_distances(rows, columns, unequal), whole)


# Recomputed with Libri-Light's own tests.
@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ([(0, 1), (0, 0), (1, 1)], np.sqrt(2) / 2),
        ([(0, 2), (0, 1), (1, 1), (-1, 0)], 0.75),
        ([(0, 0), (0, 1)], (2 + np.sqrt(2)) / 3),
    ],
)
def test_distances_are_libri_lights(sequence, expected):
    y = np.array([(0, 1), (1, 2), (0, 0)], float)
    assert dtw_distances([np.array(sequence, float)], [y], euclidean).item() == pytest.approx(expected)


@pytest.mark.parametrize(("first", "second", "expected"), [("123", "143", 1 / 3), ("1123", "1223", 0), ("12", "21", 1)])
def test_distances_of_units_by_hand(first, second, expected):
    first, second = (np.array([int(unit) for unit in units]) for units in (first, second))
    assert dtw_distances([first], [second], unequal).item() == pytest.approx(expected)


def test_unequal_is_twice_the_angle_of_one_hot_vectors():
    first, second = np.array([0, 1, 2, 1]), np.array([1, 1, 0])
    one_hot = np.eye(3)
    assert angular(one_hot[first], one_hot[second]) == pytest.approx(unequal(first, second) / 2)


def test_angles_are_shares_of_the_half_circle():
    vectors = np.array([(3, 0), (0, 2), (-1, 0), (1, 1)], np.float32)
    assert angular(vectors[:1], vectors)[0] == pytest.approx([0, 0.5, 1, 0.25])


def test_a_vector_of_zeros_is_near_its_like_alone():
    zero, other = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert angular(zero, zero).item() == 0
    assert angular(zero, other).item() == angular(other, zero).item() == 1
