"""Which kind of sequence stands at which place of the training's stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.training.step_batches import draw_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Places over which the shares are exact. Of 4096 the rarest kind's is off by an eighth of a thousandth.
PERIOD = 4096


class KindOrder:
    """An endless stream of kinds in fixed shares, in an order that depends on the seed and can be entered anywhere.

    Every PERIOD places have each kind equally often, in an order of their own.

    Args:
        shares: [K] share of the sequences that each kind has, in all 1.
        seed: Determines the order.
    """

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        self._counts = _whole_counts(np.array(shares))
        self._seed = seed
        self._period: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def at(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The kinds at places `start` to `stop` (exclusive), and how many of its kind stand before each: [n] each."""
        kinds, numbers = [], []
        while start < stop:
            period, first = divmod(start, PERIOD)
            end = min(PERIOD, first + stop - start)
            of_period, number_in_period = self._open(period)
            kinds.append(of_period[first:end])
            numbers.append(period * self._counts[kinds[-1]] + number_in_period[first:end])
            start += end - first
        if not kinds:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(kinds), np.concatenate(numbers)

    def _open(self, period: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._period is None or self._period[0] != period:
            kinds = np.repeat(np.arange(len(self._counts)), self._counts)[draw_order([self._seed, 1, period], PERIOD)]
            numbers = np.zeros(PERIOD, np.int64)
            for kind, count in enumerate(self._counts):
                numbers[kinds == kind] = np.arange(count)
            self._period = period, kinds, numbers
        return self._period[1:]


def shares_of_sequences(weights: Sequence[float], mean_tokens: Sequence[float]) -> list[float]:
    """Shares of sequences that give each kind a share of the tokens like its weight.

    Args:
        weights: [K] of tokens.
        mean_tokens: [K] tokens of a sequence of each kind, on average.
    """
    per_sequence = np.array(weights) / np.array(mean_tokens)
    shares: list[float] = (per_sequence / per_sequence.sum()).tolist()
    return shares


def _whole_counts(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of a period for each kind, at least one: the largest remainders are rounded up."""
    exact = shares * PERIOD
    counts = np.maximum(1, np.floor(exact)).astype(np.int64)
    by_remainder = np.argsort(counts - exact, kind="stable")
    counts[by_remainder[: max(0, PERIOD - int(counts.sum()))]] += 1
    counts[counts.argmax()] -= counts.sum() - PERIOD
    return counts
