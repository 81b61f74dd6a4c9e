"""Mean opinion scores with intervals, after CrowdMOS (Ribeiro et al., ICASSP 2011).

A score of rater i for item j is mu + x_i + y_j + e_ij: raters and items are random effects, so that an interval speaks
of other raters and other items too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A score this many standard deviations off those of its system is an outlier.
OUTLIER_Z = 2.5
# A rater with a larger share of outliers is left out altogether.
MAX_OUTLIER_SHARE = 0.05
# So is one whose scores correlate less with all raters' means.
MIN_CORRELATION = 0.25
# Of two systems' means the correlation is 1 or -1, whatever was rated.
MIN_SYSTEMS = 3


@dataclass(frozen=True)
class MeanOpinion:
    """A mean opinion score.

    Attributes:
        mean: The mean of all scores.
        half_interval: Half the width of its confidence interval; NaN with fewer than two scores.
        num_scores, num_raters, num_items: What counted.
        rule: How the interval was had: `two-way` from the variances of raters, items and the rest; `plain` from the
            scores' standard deviation alone, z s / sqrt(n), where there is one rater or one item.
    """

    mean: float
    half_interval: float
    num_scores: int
    num_raters: int
    num_items: int
    rule: Literal["two-way", "plain"]


@dataclass(frozen=True)
class Screened:
    """Which scores count.

    Attributes:
        counts: [raters, items], of the scores that count.
        outliers: [raters, items], of the scores that are too far off.
        correlation: [raters], of each rater's scores with the means of all raters; NaN where it is undefined.
        is_of_systems: [raters], whether that is of the means of systems, or of the scores of items.
        many_outliers: [raters], of raters with too large a share of outliers.
        low_correlation: [raters], of raters who agree too little with the others.
    """

    counts: NDArray[np.bool_]
    outliers: NDArray[np.bool_]
    correlation: NDArray[np.float64]
    is_of_systems: NDArray[np.bool_]
    many_outliers: NDArray[np.bool_]
    low_correlation: NDArray[np.bool_]


def screen(
    scores: NDArray[np.float64],
    systems: NDArray[np.int64],
    *,
    outlier_z: float = OUTLIER_Z,
    max_outlier_share: float = MAX_OUTLIER_SHARE,
    min_correlation: float = MIN_CORRELATION,
) -> Screened:
    """Tells which scores count: neither outliers of their system, nor of raters whom the others do not bear out.

    A rater is left out who has more than `max_outlier_share` of outliers, or whose correlation is below
    `min_correlation`: Pearson's, of the rater's means of systems with those of all raters, or, where these do not vary
    or there are fewer than MIN_SYSTEMS, of the scores of items with the items' means. One that is undefined is no
    ground.

    Args:
        scores: [raters, items], NaN where a rater has none.
        systems: [items], the system of each item.
        outlier_z: Standard deviations beyond which a score is an outlier.
        max_outlier_share: Of a rater's scores.
        min_correlation: Of a rater with the rest.
    """
    is_given = ~np.isnan(scores)
    outliers = np.zeros_like(is_given)
    for system in np.unique(systems):
        columns = systems == system
        values = scores[:, columns]
        given = values[~np.isnan(values)]
        spread = given.std() if len(given) else 0.0
        if spread > 0:
            with np.errstate(invalid="ignore"):
                outliers[:, columns] = np.abs(values - given.mean()) / spread > outlier_z
    num_given = is_given.sum(axis=1)
    many_outliers = outliers.sum(axis=1) > max_outlier_share * num_given
    of_systems = np.array([_agreement_on_systems(scores, systems, rater) for rater in range(len(scores))])
    is_of_systems = ~np.isnan(of_systems)
    of_items = np.array([_agreement_on_items(scores, rater) for rater in range(len(scores))])
    correlation = np.where(is_of_systems, of_systems, of_items)
    low_correlation = correlation < min_correlation  # which NaN is not
    counts = is_given & ~outliers & ~(many_outliers | low_correlation)[:, None]
    return Screened(counts, outliers, correlation, is_of_systems, many_outliers, low_correlation)


def mean_opinion(scores: NDArray[np.float64], level: float = 0.95) -> MeanOpinion:
    """The mean of scores and its interval.

    Args:
        scores: [raters, items], NaN where a rater has none. A rater or item without any counts for the degrees of
            freedom nevertheless, as in the published scorers: leave those out beforehand.
        level: Confidence of the interval.
    """
    given = scores[~np.isnan(scores)]
    num_raters, num_items = scores.shape
    mean = float(given.mean()) if len(given) else math.nan
    if min(num_raters, num_items) >= 2:
        quantile = float(stats.t.ppf((1 + level) / 2, min(num_raters, num_items) - 1))
        half = quantile * math.sqrt(variance_of_mean(scores))
        if not math.isnan(half):
            return MeanOpinion(mean, half, len(given), num_raters, num_items, "two-way")
    return MeanOpinion(mean, plain_half_interval(given, level), len(given), num_raters, num_items, "plain")


def plain_half_interval(scores: NDArray[np.float64], level: float = 0.95) -> float:
    """Half the width of the interval z s / sqrt(n), which takes scores [n] for independent; NaN with fewer than two."""
    if len(scores) < 2:
        return math.nan
    return float(stats.norm.ppf((1 + level) / 2) * scores.std() / math.sqrt(len(scores)))


def variance_of_mean(scores: NDArray[np.float64]) -> float:
    """The variance of the mean of scores [raters, items] (NaN: none) under the two-way random effects model.

    With variances v_item of y_j, v_rater of x_i and v_rest of e_ij, an item's scores vary by v_rater + v_rest, a
    rater's by v_item + v_rest, all of them by the sum of the three. Where no rater has two scores, or no item, the one
    component that stays unknown counts with the rest. NaN with fewer than two scores, or where neither is known.
    """
    is_given = ~np.isnan(scores)
    of_rater, of_item = is_given.sum(axis=1), is_given.sum(axis=0)
    total = int(is_given.sum())
    if total < 2:
        return math.nan
    all_vary = float(np.var(scores[is_given]))
    rater_varies = _mean_variance(scores, of_rater, 1)
    item_varies = _mean_variance(scores, of_item, 0)
    items_share = float((of_item**2).sum()) / total**2
    raters_share = float((of_rater**2).sum()) / total**2
    if rater_varies is None and item_varies is None:
        return math.nan
    if rater_varies is None:
        assert item_varies is not None
        return max(all_vary - item_varies, 0.0) * items_share + item_varies / total
    if item_varies is None:
        return max(all_vary - rater_varies, 0.0) * raters_share + rater_varies / total
    v_item = max(all_vary - item_varies, 0.0)
    v_rater = max(all_vary - rater_varies, 0.0)
    v_rest = max(rater_varies + item_varies - all_vary, 0.0)
    return v_item * items_share + v_rater * raters_share + v_rest / total


def _mean_variance(scores: NDArray[np.float64], counts: NDArray[np.int64], axis: int) -> float | None:
    """Mean of the variances along an axis, of those rows or columns with two scores or more; None without any."""
    several = scores[counts >= 2] if axis == 1 else scores[:, counts >= 2]
    return float(np.nanvar(several, axis=axis).mean()) if several.size else None


def _agreement_on_systems(scores: NDArray[np.float64], systems: NDArray[np.int64], rater: int) -> float:
    own = scores[rater]
    rated = np.unique(systems[~np.isnan(own)])
    if len(rated) < MIN_SYSTEMS:
        return math.nan
    means = [(np.nanmean(own[systems == name]), np.nanmean(scores[:, systems == name])) for name in rated]
    return _pearson(np.array(means))


def _agreement_on_items(scores: NDArray[np.float64], rater: int) -> float:
    rated = ~np.isnan(scores[rater])
    if not rated.any():
        return math.nan
    return _pearson(np.stack([scores[rater, rated], np.nanmean(scores[:, rated], axis=0)], axis=1))


def _pearson(pairs: NDArray[np.float64]) -> float:
    """Of the two columns; NaN where one does not vary."""
    if len(pairs) < 2 or np.isclose(pairs.std(axis=0), 0).any():
        return math.nan
    return float(np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1])
