"""The deal of places to kinds: exact shares, and the same wherever one enters."""

from __future__ import annotations

import numpy as np
import pytest

from model.lm.mixture.kinds import PERIOD, KindOrder, shares_of_sequences


def test_every_period_has_each_kind_in_its_share() -> None:
    kinds, _ = KindOrder([0.5, 0.3, 0.2], 0).at(0, 5 * PERIOD)
    for period in kinds.reshape(5, PERIOD):
        assert np.abs(np.bincount(period) - np.array([0.5, 0.3, 0.2]) * PERIOD).max() < 1
    first, second = kinds.reshape(5, PERIOD)[:2]
    assert not np.array_equal(first, second)


def test_numbers_count_each_kind_without_gaps() -> None:
    kinds, numbers = KindOrder([0.6, 0.4], 3).at(0, 3 * PERIOD + 100)
    for kind in (0, 1):
        assert numbers[kinds == kind].tolist() == list(range((kinds == kind).sum()))


def test_any_place_can_be_entered() -> None:
    whole_kinds, whole_numbers = KindOrder([0.7, 0.2, 0.1], 1).at(0, 3 * PERIOD)
    for start, stop in [(0, 1), (PERIOD - 3, PERIOD + 4), (5000, 5000), (4000, 3 * PERIOD)]:
        kinds, numbers = KindOrder([0.7, 0.2, 0.1], 1).at(start, stop)
        assert np.array_equal(kinds, whole_kinds[start:stop])
        assert np.array_equal(numbers, whole_numbers[start:stop])


def test_a_rare_kind_is_not_forgotten() -> None:
    kinds, _ = KindOrder([1e-9, 1 - 1e-9], 0).at(0, PERIOD)
    assert np.bincount(kinds).tolist() == [1, PERIOD - 1]


def test_one_kind_alone() -> None:
    kinds, numbers = KindOrder([1.0], 0).at(10, 20)
    assert not kinds.any()
    assert numbers.tolist() == list(range(10, 20))


def test_shares_of_tokens_become_shares_of_sequences() -> None:
    shares = shares_of_sequences([1, 1, 2], [100, 1000, 500])
    tokens = np.array(shares) * [100, 1000, 500]
    assert tokens / tokens.sum() == pytest.approx([0.25, 0.25, 0.5])
    assert sum(shares) == pytest.approx(1)
