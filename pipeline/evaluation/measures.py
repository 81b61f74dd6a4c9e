"""Figures from scores of items: weighted means, with bootstrap intervals, alone and as differences of two results.

Every figure of a benchmark is a ratio of sums over items: an accuracy is points over pairs, a word error rate errors
over words. The items of one group (a word in all its voices, the clips of a speaker) are no independent evidence, so a
bootstrap draws whole groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binomtest

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

GROUP = "group"
NUM_DRAWS = 1000
# Draws are made this many at a time, so that a benchmark of 63,000 groups needs little memory.
DRAWS_AT_ONCE = 50


@dataclass(frozen=True)
class Measure:
    """A figure, told by columns of the table of items: sum(weight * numerator) / sum(weight * denominator).

    Attributes:
        name: What it is called, as in "all, sum".
        numerator: A column of numbers.
        denominator: A column of numbers; None: 1 for each item.
        weight: A column of weights; None: 1 for each item.
        where: A column of booleans: the items that count; None: all.
        mean_over: A column of names: the figure is the mean of the ratios of each name's items; None: one ratio.
        exponential: Whether exp of a ratio is taken, as a perplexity is of nats a unit.
        geometric_with: A second column in place of the numerator: the figure is the geometric mean of both.
    """

    name: str
    numerator: str
    denominator: str | None = None
    weight: str | None = None
    where: str | None = None
    mean_over: str | None = None
    exponential: bool = False
    geometric_with: str | None = None


@dataclass(frozen=True)
class Figure:
    """The value of a measure.

    Attributes:
        value: NaN if no item counts.
        low, high: Its interval; None if there are fewer than two groups, or it was not drawn.
        num_items, num_groups: What counted.
    """

    value: float
    low: float | None
    high: float | None
    num_items: int
    num_groups: int


@dataclass(frozen=True)
class Difference:
    """How much a second result is above the first, on the groups that both have.

    Attributes:
        value: Second minus first.
        low, high: Its interval, by a bootstrap that draws the same groups for both; None with fewer than two.
        num_groups: Groups that both have.
        mcnemar_p: Of the exact McNemar test, where every item is right or wrong in both; else None.
    """

    value: float
    low: float | None
    high: float | None
    num_groups: int
    mcnemar_p: float | None


@dataclass(frozen=True)
class _Sums:
    """The numerators and denominators of a measure by group and class, [groups, classes]; groups by their names.

    The classes are the names in `Measure.mean_over`; without it there is one.
    """

    groups: NDArray[np.str_]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]
    num_items: int
    exponential: bool
    geometric_with: _Sums | None

    def values(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """The measure of each of some draws; `times` [draws, groups] says how often each group was drawn.

        NaN where nothing counts. A class that was not drawn is left out of the mean.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratios = (times @ self.numerators) / (times @ self.denominators)
            ratios = np.exp(ratios) if self.exponential else ratios
        is_number = ~np.isnan(ratios)
        counts = is_number.sum(axis=1)
        sums = np.where(is_number, ratios, 0.0).sum(axis=1)
        means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        return means if self.geometric_with is None else np.sqrt(means * self.geometric_with.values(times))

    @property
    def total(self) -> float:
        return float(self.values(np.ones((1, len(self.groups)), np.int64))[0])


def figure(items: pa.Table, measure: Measure, *, level: float, seed: int, num_draws: int = NUM_DRAWS) -> Figure:
    """The value of a measure over items, with a percentile interval of a bootstrap over groups.

    Args:
        items: A row an item, with a column `group` and those that the measure names.
        measure: The measure.
        level: Share of the draws that lie within the interval.
        seed: Of the draws.
        num_draws: Number of draws.
    """
    sums = _sums(items, measure)
    low = high = None
    if len(sums.groups) > 1 and num_draws:
        drawn = np.concatenate([sums.values(times) for times in draws(len(sums.groups), seed, num_draws)])
        low, high = interval(drawn, level)
    return Figure(sums.total, low, high, sums.num_items, len(sums.groups))


def difference(
    first: pa.Table, second: pa.Table, measure: Measure, *, level: float, seed: int, num_draws: int = NUM_DRAWS
) -> Difference:
    """How much a measure is higher in the second table of items than in the first, with a paired interval.

    Raises:
        TwistError: the tables have no group in common.
    """
    if measure.where is not None:  # before items are matched: one may count in one table alone
        first, second = (table.filter(table[measure.where]) for table in (first, second))
        measure = replace(measure, where=None)
    name = "item_id" if "item_id" in first.column_names and "item_id" in second.column_names else GROUP
    common = set(first[name].to_pylist()) & set(second[name].to_pylist())
    if not common:
        raise TwistError("the two results have no item in common: they were made from other data")
    of_both = pa.array(sorted(common), pa.string())
    first, second = (table.filter(pc.is_in(table[name].cast(pa.string()), of_both)) for table in (first, second))
    ours, theirs = _sums(first, measure), _sums(second, measure)
    low = high = None
    if len(ours.groups) > 1 and len(ours.groups) == len(theirs.groups):
        drawn = np.concatenate(
            [theirs.values(times) - ours.values(times) for times in draws(len(ours.groups), seed, num_draws)]
        )
        low, high = interval(drawn, level)
    return Difference(theirs.total - ours.total, low, high, len(ours.groups), _mcnemar(first, second, measure))


def _sums(items: pa.Table, measure: Measure) -> _Sums:
    if measure.where is not None:
        items = items.filter(items[measure.where])
    weight = _column(items, measure.weight)
    numerator = weight * _column(items, measure.numerator)
    denominator = weight * _column(items, measure.denominator)
    groups, owner = _codes(items, GROUP)
    classes, of_class = (np.array([""]), np.zeros(len(items), np.int64))
    if measure.mean_over is not None:
        classes, of_class = _codes(items, measure.mean_over)
    shape = (len(groups), len(classes))
    place = owner * len(classes) + of_class
    numerators, denominators = (
        np.bincount(place, values, shape[0] * shape[1]).reshape(shape).astype(np.float64)
        for values in (numerator, denominator)
    )
    twin = None
    if measure.geometric_with is not None:
        twin = _sums(items, replace(measure, numerator=measure.geometric_with, where=None, geometric_with=None))
    return _Sums(groups, numerators, denominators, len(items), measure.exponential, twin)


def _codes(items: pa.Table, name: str) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The values of a column of names, sorted, and the place among them of each item's."""
    return np.unique(np.asarray(items[name].to_pylist(), dtype=np.str_), return_inverse=True)


def _column(items: pa.Table, name: str | None) -> NDArray[np.float64]:
    if name is None:
        return np.ones(len(items))
    return np.asarray(items[name].cast(pa.float64()).to_numpy())


def draws(num_groups: int, seed: int, num_draws: int = NUM_DRAWS) -> Iterator[NDArray[np.int64]]:
    """How often each group is drawn, [some draws, groups], a few draws at a time; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_draws, DRAWS_AT_ONCE):
        chosen = rng.integers(num_groups, size=(min(DRAWS_AT_ONCE, num_draws - start), num_groups))
        yield np.stack([np.bincount(row, minlength=num_groups) for row in chosen])


def interval(drawn: NDArray[np.float64], level: float) -> tuple[float, float] | tuple[None, None]:
    """The percentiles between which a share `level` of drawn values lies; None if no value is finite."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mcnemar(first: pa.Table, second: pa.Table, measure: Measure) -> float | None:
    """The exact McNemar test, over items of one name; None where an item is neither right nor wrong."""
    is_mean = measure.denominator is None and measure.geometric_with is None and not measure.exponential
    if "item_id" not in first.column_names or not is_mean:
        return None
    if measure.where is not None:
        first, second = first.filter(first[measure.where]), second.filter(second[measure.where])
    ours = dict(zip(first["item_id"].to_pylist(), _column(first, measure.numerator), strict=True))
    theirs = dict(zip(second["item_id"].to_pylist(), _column(second, measure.numerator), strict=True))
    pairs = [(ours[item_id], theirs[item_id]) for item_id in ours.keys() & theirs.keys()]
    if not pairs or any(value not in (0.0, 1.0) for pair in pairs for value in pair):
        return None
    only_second = sum(theirs_is > ours_is for ours_is, theirs_is in pairs)
    num_unlike = sum(theirs_is != ours_is for ours_is, theirs_is in pairs)
    return float(binomtest(only_second, num_unlike).pvalue) if num_unlike else 1.0


def require_columns(items: pa.Table, measures: Sequence[Measure]) -> None:
    """Asserts that a table of items has the columns that its measures name."""
    for measure in measures:
        told = (
            GROUP,
            measure.numerator,
            measure.denominator,
            measure.weight,
            measure.where,
            measure.mean_over,
            measure.geometric_with,
        )
        for name in told:
            assert name is None or name in items.column_names, f"{measure.name} needs the column {name}"
