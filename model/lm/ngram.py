"""n-gram models of units: what counting alone gives, which a speech LM has to beat.

Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998, "An empirical study of smoothing techniques for
language modeling", equations 26 to 28): a model of n units discounts counts and takes the rest from the model of n - 1,
whose counts are of the different units that a stretch follows, not of its occurrences. Stretches from the start of a
sequence, which follow nothing, keep their occurrences, as in KenLM. At the bottom all units are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.lm.perplexity import COUNTED_AT_ONCE, report_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.perplexity import PerplexityReport
    from model.lm.samples import UnitSamples

MOST_ORDER = 5
# Of the training split. All five orders take about a gigabyte and half a minute for so many.
MOST_UNITS = 5_000_000
# An n-gram is one int64.
BITS = 63


@dataclass(frozen=True)
class _Counts:
    """Discounted counts of one order: what its probabilities need.

    Attributes:
        share: [G] of each n-gram, its discounted share of its context.
        rest: [C] of each context, the share that is left for the order below.
    """

    share: NDArray[np.float32]
    rest: NDArray[np.float32]


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order, ascending [G], their contexts, ascending [C], and two ways to count.

    `as_top` is for a model of this order, `as_lower` for one of a higher order; the highest order has none.
    """

    grams: NDArray[np.int64]
    contexts: NDArray[np.int64]
    as_top: _Counts
    as_lower: _Counts | None


def most_order(num_units: int) -> int:
    """The highest order, by which an n-gram of units, and of what stands before a sequence, fits into an int64."""
    return min(MOST_ORDER, BITS // num_units.bit_length())


class NgramModel:
    """Models of all orders from 1 to `order`, from the same sequences.

    Args:
        sequences: Units, [n] each.
        num_units: How many units there are.
        order: The highest order; fewer where so many units do not fit into an int64 (5 up to 4,095 units).

    Attributes:
        order: The highest order that there is.
    """

    def __init__(self, sequences: Sequence[NDArray[np.uint16]], num_units: int, order: int = MOST_ORDER) -> None:
        self.num_units = num_units
        # One more symbol: what stands before a sequence.
        self._bits = num_units.bit_length()
        self.order = min(order, most_order(num_units))
        keys = self._keys(sequences)
        self._orders: list[_Order] = []
        above: NDArray[np.int64] | None = None
        for length in range(self.order, 0, -1):
            grams, occurrences = np.unique(keys & ((1 << self._bits * length) - 1), return_counts=True)
            follows = None if above is None else self._different_units_before(grams, occurrences, above, length)
            self._orders.append(self._counted(grams, occurrences, follows))
            above = grams
        self._orders.reverse()

    def nll(self, units: NDArray[np.uint16]) -> NDArray[np.float64]:
        """Negative log-likelihood of each unit but the first, in nats, by each order from 1: [order, n - 1]."""
        return self._nats(self._keys([units])[1:])

    def totals(self, sequences: Sequence[NDArray[np.uint16]]) -> NDArray[np.float64]:
        """The sums of `nll` of some sequences, [order, number of sequences]."""
        nats = self._nats(self._keys(sequences))
        first = np.cumsum([0, *(len(units) for units in sequences[:-1])])
        nats[:, first] = 0.0
        return np.asarray(np.add.reduceat(nats, first, axis=1))

    def _nats(self, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        lower = np.full(len(keys), 1.0 / self.num_units)
        nats = np.empty((self.order, len(keys)))
        for length, order in enumerate(self._orders, start=1):
            own = keys & ((1 << self._bits * length) - 1)
            gram, is_gram = _find(order.grams, own)
            context, is_context = _find(order.contexts, own >> self._bits)
            nats[length - 1] = -np.log(_interpolated(order.as_top, gram, is_gram, context, is_context, lower))
            if order.as_lower is not None:
                lower = _interpolated(order.as_lower, gram, is_gram, context, is_context, lower)
        return nats

    def _keys(self, sequences: Sequence[NDArray[np.uint16]]) -> NDArray[np.int64]:
        """Each unit with the `order` - 1 symbols before it, the oldest in the highest bits: [all units]."""
        pad = np.full(self.order - 1, self.num_units, np.int64)
        symbols = np.concatenate([pad, *(part for units in sequences for part in (units.astype(np.int64), pad))])
        keys = np.zeros(len(symbols) - len(pad), np.int64)
        for place in range(self.order):
            keys <<= self._bits
            keys |= symbols[place : place + len(keys)]
        return keys[symbols[len(pad) :] < self.num_units]

    def _different_units_before(
        self, grams: NDArray[np.int64], occurrences: NDArray[np.int64], above: NDArray[np.int64], length: int
    ) -> NDArray[np.int64]:
        """How many different symbols stand before each n-gram; of one that begins a sequence, its occurrences."""
        without_first, num_before = np.unique(above & ((1 << self._bits * length) - 1), return_counts=True)
        assert np.array_equal(without_first, grams), "each n-gram ends one that is a unit longer"
        begins = grams >> (self._bits * (length - 1)) == self.num_units
        return np.where(begins, occurrences, num_before)

    def _counted(
        self, grams: NDArray[np.int64], occurrences: NDArray[np.int64], follows: NDArray[np.int64] | None
    ) -> _Order:
        contexts, first = np.unique(grams >> self._bits, return_index=True)
        return _Order(
            grams,
            contexts,
            _discounted(occurrences, first),
            None if follows is None else _discounted(follows, first),
        )


def _discounted(counts: NDArray[np.int64], first: NDArray[np.int64]) -> _Counts:
    """Counts [G] of n-grams ordered by context, of which `first` [C] says where each begins, less their discounts."""
    discount = _discounts(counts)[np.minimum(counts, 3)]
    totals = np.add.reduceat(counts, first).astype(np.float64)
    sizes = np.diff(first, append=len(counts))
    share = (counts - discount) / np.repeat(totals, sizes)
    rest = np.add.reduceat(discount, first) / totals
    return _Counts(share.astype(np.float32), rest.astype(np.float32))


def _discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What is taken off a count of 0, 1, 2 and of 3 or more, [4]."""
    num = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(np.float64)
    if not num[1] or not num[2]:  # too few n-grams to tell
        return np.array([0.0, 0.5, 0.5, 0.5])
    shrink = num[1] / (num[1] + 2 * num[2])
    ratio = np.array([num[n + 1] / num[n] if num[n] else 0.0 for n in (1, 2, 3)])
    discounts = np.arange(1, 4) - np.arange(2, 5) * shrink * ratio
    # Where counts of counts are odd, as on little data, the formula leaves the range that it must have.
    return np.concatenate([[0.0], np.clip(discounts, 0.05, np.array([0.95, 1.95, 2.95]))])


def _find(table: NDArray[np.int64], keys: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where each key stands in an ascending table, and whether it does."""
    places = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return places, table[places] == keys


def _interpolated(
    counts: _Counts,
    gram: NDArray[np.intp],
    is_gram: NDArray[np.bool_],
    context: NDArray[np.intp],
    is_context: NDArray[np.bool_],
    lower: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Probabilities by one order and those below; a context that never occurred leaves all to these."""
    share = np.where(is_gram, counts.share[gram], 0.0)
    return np.asarray(share + np.where(is_context, counts.rest[context], 1.0) * lower)


def fit_ngrams(samples: UnitSamples, num_units: int, *, most_units: int = MOST_UNITS, seed: int = 0) -> NgramModel:
    """n-gram models of a split: of all its samples, or of whole blocks of them that are drawn by `seed`.

    Args:
        samples: What to count; damaged samples are left out where `samples` says so.
        num_units: The codebook's size.
        most_units: Read blocks until there are so many units.
        seed: Of the draw.
    """
    names, starts = np.unique(samples.blocks, return_index=True)
    ends = np.append(starts[1:], len(samples))
    order: Sequence[int] | NDArray[np.int64] = range(len(names))
    if samples.num_units.sum() > most_units:
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    sequences: list[NDArray[np.uint16]] = []
    num_read = 0
    for number in order:
        for start in range(starts[number], ends[number], COUNTED_AT_ONCE):
            found = samples.read(np.arange(start, min(start + COUNTED_AT_ONCE, ends[number])), below=num_units)
            for units in found:
                if units is not None and num_read < most_units:
                    sequences.append(units)
                    num_read += len(units)
        if num_read >= most_units:
            break
    return NgramModel(sequences, num_units)


def ngram_nll(model: NgramModel, samples: UnitSamples, first: int = 0, last: int | None = None) -> NDArray[np.float64]:
    """Nats of samples `first` to `last` (exclusive; by default all) by each order, their first units given.

    Returns:
        [order, last - first]

    Raises:
        TwistError: a sample is damaged.
    """
    last = len(samples) if last is None else last
    nats = np.zeros((model.order, last - first))
    for start in range(first, last, COUNTED_AT_ONCE):
        end = min(start + COUNTED_AT_ONCE, last)
        nats[:, start - first : end - first] = model.totals([samples[index] for index in range(start, end)])
    return nats


def reports_by_order(nats: NDArray[np.float64], samples: UnitSamples) -> dict[int, PerplexityReport]:
    """Perplexities from nats [order, num_samples], by order."""
    return {order: report_of(of_order, samples) for order, of_order in enumerate(nats, start=1)}


def best_order(reports: dict[int, PerplexityReport]) -> int:
    """The order of the lowest mean perplexity."""
    return min(reports, key=lambda order: reports[order].mean.perplexity)
