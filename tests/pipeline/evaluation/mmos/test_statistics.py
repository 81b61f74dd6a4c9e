"""Mean opinion scores: intervals of the published scorers, and which scores and raters are left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.mmos.statistics import mean_opinion, plain_half_interval, screen, variance_of_mean

_ = math.nan
# Six raters, thirteen items; a blank is no score.
SPARSE = """\
541 2_5 134 4_1_
452 14_ 224 53__
551 15_ 135 52__
5_1 24_ 1_4 42__
_4_ ___ _2_ ____
___ ___ ___ ____"""

# The first system of a listening test of the Blizzard Challenge, as the package mean-opinion-score (MIT) has it.
BLIZZARD = """\
_5___555_5_5_____5
555555555555555555
555555555555555555
_55____5555_5_55__
5555555555555_5555
555555555555455554
5__55______5____55
5_555_5555_5555555
555555545555555555
__55__5________5__
555555555555555555
55__554555555_5_55
55__555____55_5_45
5555555_5_55355555
_55__5__5_5__5_5__
5__55______5____54
5__55___5_______4_
454535443554555435
55555555_555_5_555
45__54_55555_5__5_"""


def matrix(text: str) -> np.ndarray:
    rows = [row.replace(" ", "") for row in text.split("\n")]
    return np.array([[math.nan if sign == "_" else float(sign) for sign in row] for row in rows])


@pytest.mark.parametrize(
    ("scores", "mean", "half_interval"),
    [
        ([[4, 5, _, 4], [4, 4, 4, 5], [_, 3, 5, 4], [_, _, _, _]], 4.20, 0.6997),
        ([[1, 2, _, _], [1, 1, 1, _], [_, 2, 5, 1], [_, 1, _, 1]], 1.60, 1.7912),
        ([[5, 4], [4, 5]], 4.5, 3.176551),
        ([[3, 3], [3, 3]], 3.0, 0.0),
        ([[1, 5], [1, 5], [1, 5]], 3.0, 17.969287),
        ([[1, 1], [5, 5], [3, 3]], 3.0, 11.979525),
    ],
)
def test_intervals_are_those_of_the_published_scorers(scores, mean, half_interval):
    found = mean_opinion(np.array(scores, float))
    assert found.mean == pytest.approx(mean)
    assert found.half_interval == pytest.approx(half_interval, abs=1e-4)
    assert found.rule == "two-way"


def test_a_listening_test_has_the_published_interval():
    scores = matrix(BLIZZARD)
    found = mean_opinion(scores)
    assert found.mean == pytest.approx(4.908)
    assert found.half_interval == pytest.approx(0.11618882, abs=1e-7)
    assert plain_half_interval(scores[~np.isnan(scores)]) == pytest.approx(0.0421344, abs=1e-7)


def test_raters_of_one_clip_each_leave_their_variance_with_the_rest():
    """Scores of an item differ by raters and chance alone; what is left of the whole variance is the items'."""
    scores = np.full((6, 2), _)
    scores[:3, 0] = [1, 2, 3]
    scores[3:, 1] = [3, 4, 5]
    within, whole = 2 / 3, np.var([1, 2, 3, 3, 4, 5])
    assert variance_of_mean(scores) == pytest.approx((whole - within) * (3**2 + 3**2) / 6**2 + within / 6)


@pytest.mark.parametrize(
    ("scores", "variance"),
    [
        ([[5, 4], [4, 5]], 0.0625),
        ([[5, 4]], 0.125),
        ([[3, 3], [3, 3]], 0.0),
        ([[1, 5]] * 3, 2.0),
        ([[1, 1], [5, 5], [3, 3]], 0.888889),
        (matrix(SPARSE), 0.25230014),
    ],
)
def test_variances_are_those_of_the_published_scorers(scores, variance):
    assert variance_of_mean(np.array(scores, float)) == pytest.approx(variance, abs=1e-6)


def test_one_score_has_no_variance():
    assert math.isnan(variance_of_mean(np.array([[1.0]])))
    assert math.isnan(mean_opinion(np.array([[1.0]])).half_interval)
    assert math.isnan(mean_opinion(np.full((2, 2), math.nan)).mean)


@pytest.mark.parametrize("scores", [[[5, 4, 3]], [[5], [4], [3]]])
def test_one_rater_or_one_item_has_a_plain_interval(scores):
    found = mean_opinion(np.array(scores, float))
    assert found.rule == "plain"
    assert found.half_interval == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(2 / 3) / math.sqrt(3))


def test_raters_and_items_are_alike_to_the_interval():
    scores = matrix(SPARSE)
    assert variance_of_mean(scores.T) == pytest.approx(variance_of_mean(scores))
    shuffled = scores[np.random.default_rng(0).permutation(len(scores))]
    assert mean_opinion(shuffled).half_interval == pytest.approx(mean_opinion(scores).half_interval)


def test_the_interval_holds_what_it_should():
    """Of drawn raters, items and noise, about 95 of 100 intervals hold the mean that they were drawn around."""
    rng = np.random.default_rng(0)
    held = 0
    for _draw in range(300):
        scores = 3 + rng.normal(0, 0.5, (12, 1)) + rng.normal(0, 0.5, (1, 12)) + rng.normal(0, 0.5, (12, 12))
        found = mean_opinion(scores)
        held += abs(found.mean - 3) <= found.half_interval
    assert 0.9 < held / 300 <= 1.0


def careful(num_items: int, num_raters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of raters who agree on two systems, one good and one bad."""
    systems = np.arange(num_items) % 2
    return np.clip(4.5 - 2 * systems + rng.normal(0, 0.3, (num_raters, num_items)), 1, 5), systems


def test_who_rates_at_random_or_against_the_others_is_left_out():
    scores, systems = careful(40, 10, np.random.default_rng(0))
    scores[3] = 7 - scores[3]
    screened = screen(scores, systems)
    assert not screened.is_of_systems.any(), "two systems are too few"
    assert screened.low_correlation.tolist() == [rater == 3 for rater in range(10)]
    assert not screened.counts[3].any()


def test_agreement_is_of_systems_where_there_are_three():
    """With one clip of each, in which systems and items are the same; and with two of each, of whose means it is."""
    scores = np.array([[1.0, 2.0, 4.0], [2.0, 1.0, 5.0], [1.0, 3.0, 4.5]])
    alone, twice = screen(scores, np.arange(3)), screen(np.repeat(scores, 2, axis=1), np.arange(6) // 2)
    expected = [np.corrcoef(row, scores.mean(axis=0))[0, 1] for row in scores]
    for screened in (alone, twice):
        assert screened.is_of_systems.all()
        assert screened.correlation == pytest.approx(expected)


def test_scores_far_off_are_left_out_and_raters_with_many_of_them():
    scores, systems = careful(40, 10, np.random.default_rng(0))
    scores[0, 0] = 1.0
    scores[1, [2, 4, 6]] = 1.0
    screened = screen(scores, systems)
    assert screened.outliers[0, 0]
    assert not screened.many_outliers[0]
    assert not screened.counts[0, 0]
    assert screened.counts[0, 1:].all()
    assert screened.many_outliers[1]
    assert not screened.counts[1].any()


def test_nobody_is_left_out_for_a_correlation_that_is_undefined():
    screened = screen(np.array([[4.0, _], [4.0, 4.0], [_, _]]), np.array([0, 1]))
    assert np.isnan(screened.correlation).all()
    assert screened.counts.tolist() == [[True, False], [True, True], [False, False]]
