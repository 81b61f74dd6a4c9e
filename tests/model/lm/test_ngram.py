"""n-gram models: equal to a plain count in dictionaries, distributions, and right about a Markov chain."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.lm import ngram
from model.lm.ngram import NgramModel, fit_ngrams, ngram_nll, reports_by_order
from model.lm.samples import UnitSamples
from model.lm.training_data import ngram_reports
from model.lm.vocab import Vocabulary
from model.training.distributed import Ranks
from pipeline.shards import open_dataset

START = "<s>"


class PlainKneserNey:
    """The recursion of Chen and Goodman, context by context, without a thought for speed."""

    def __init__(self, sequences, num_units, order):
        self.num_units = num_units
        occurrences = [Counter() for _ in range(order + 1)]
        for units in sequences:
            padded = [START] * (order - 1) + list(units)
            for end in range(order, len(padded) + 1):
                for length in range(1, order + 1):
                    occurrences[length][tuple(padded[end - length : end])] += 1
        self.top = [self.table(counts) for counts in occurrences]
        self.lower = [None]
        for length in range(1, order):
            before = defaultdict(set)
            for gram in occurrences[length + 1]:
                before[gram[1:]].add(gram[0])
            counts = {
                gram: occurrences[length][gram] if gram[0] == START else len(found) for gram, found in before.items()
            }
            self.lower.append(self.table(counts))

    @staticmethod
    def table(counts):
        n1, n2, n3, n4 = (sum(count == n for count in counts.values()) for n in (1, 2, 3, 4))
        discounts = [0.0, 0.5, 0.5, 0.5]
        if n1 and n2:
            y = n1 / (n1 + 2 * n2)
            found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - (4 * y * n4 / n3 if n3 else 0))
            discounts[1:] = [min(max(one, 0.05), most) for one, most in zip(found, (0.95, 1.95, 2.95), strict=True)]
        contexts = defaultdict(dict)
        for gram, count in counts.items():
            contexts[gram[:-1]][gram[-1]] = (count, discounts[min(count, 3)])
        return contexts

    def probability(self, unit, context, table, length):
        if length == 0:
            return 1 / self.num_units
        below = self.probability(unit, context[1:], self.lower[length - 1], length - 1)
        followers = table.get(tuple(context))
        if not followers:
            return below
        total = sum(count for count, _ in followers.values())
        count, discount = followers.get(unit, (0, 0))
        return (count - discount + sum(one for _, one in followers.values()) * below) / total

    def nll(self, units, length, order):
        padded = [START] * (order - 1) + list(units)
        return [
            -math.log(self.probability(padded[end], padded[end - length + 1 : end], self.top[length], length))
            for end in range(order, len(padded))
        ]


sequences_of_units = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=30), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(sequences_of_units, st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(1, 5))
def test_probabilities_are_those_of_a_plain_count(sequences, held_out, order):
    model = NgramModel([np.array(one, np.uint16) for one in sequences], 4, order)
    plain = PlainKneserNey(sequences, 4, order)
    for length, nats in enumerate(model.nll(np.array(held_out, np.uint16)), start=1):
        np.testing.assert_allclose(nats, plain.nll(held_out, length, order), rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(sequences_of_units, st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_probabilities_of_all_units_add_up_to_one(sequences, context):
    model = NgramModel([np.array(one, np.uint16) for one in sequences], 4)
    nats = [model.nll(np.array([*context, unit], np.uint16))[:, -1] for unit in range(4)]
    np.testing.assert_allclose(np.exp(-np.array(nats)).sum(axis=0), 1, rtol=1e-5)


def test_a_markov_chain_is_known_by_two_units_and_more_tell_nothing():
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(20, 0.3), size=20)

    def chain(length):
        units = [0]
        while len(units) < length:
            units.append(int(rng.choice(20, p=table[units[-1]])))
        return np.array(units, np.uint16)

    train, held_out = [chain(500) for _ in range(40)], chain(4000)
    truth = -np.log(table[held_out[:-1], held_out[1:]]).mean()
    one, two, *more = NgramModel(train, 20).nll(held_out).mean(axis=1)
    assert two == pytest.approx(truth, rel=0.02)
    assert one > truth + 0.3
    assert all(two - 0.01 < nats < one for nats in more)


def test_a_large_codebook_has_the_orders_that_fit():
    units = np.array([4999, 0, 4999, 0, 3], np.uint16)
    model = NgramModel([units], 5000)
    assert model.order == 4  # 13 bits each
    assert model.nll(units).shape == (4, 4) and np.isfinite(model.nll(units)).all()


def test_totals_are_the_sums_of_each_sequence():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(5, size=length).astype(np.uint16) for length in (2, 9, 30)]
    model = NgramModel(sequences, 5)
    expected = np.stack([model.nll(units).sum(axis=1) for units in sequences], axis=1)
    np.testing.assert_allclose(model.totals(sequences), expected)


def test_of_many_units_whole_blocks_are_drawn_by_the_seed(monkeypatch):
    class Samples:
        """Ten blocks of four samples of 50 units; all units of a block are its number."""

        blocks = np.repeat(np.arange(10), 4)
        num_units = np.full(40, 50)

        def __len__(self):
            return 40

        def read(self, indices, below):
            return [np.full(50, self.blocks[index], np.uint16) for index in indices]

    counted = []
    monkeypatch.setattr(ngram, "NgramModel", lambda sequences, _: counted.append(sequences))
    for most_units, seed in ((10_000, 0), (400, 0), (400, 0), (400, 1), (30, 0)):
        fit_ngrams(Samples(), 10, most_units=most_units, seed=seed)
    everything, some, again, otherwise, least = ([int(one[0]) for one in sequences] for sequences in counted)
    assert everything == sorted(list(range(10)) * 4)
    assert len(some) == 8 and len(set(some)) == 2 and some == again != otherwise
    assert len(least) == 1


def test_processes_that_score_their_shares_score_what_one_does(small_run):
    dataset = open_dataset(str(small_run / "shards"))
    train, validation = UnitSamples(dataset, "train", 4096), UnitSamples(dataset, "validation", 4096)
    num_units = Vocabulary.of_dataset(dataset).codebook_size
    one = ngram_reports(train, validation, num_units, 0, Ranks())
    whole = ngram_nll(fit_ngrams(train, num_units), validation)
    told = []

    class Share(Ranks):
        """One of three, whose sums are made up below."""

        def sum(self, values):
            if values.ndim == 2:
                told.append(values.clone())
            return values

        def any(self, value):
            return value

    for rank in range(3):
        ngram_reports(train, validation, num_units, 0, Share(rank, 3))
    np.testing.assert_array_equal(sum(told).numpy(), whole)
    assert one[1].mean.perplexity == pytest.approx(reports_by_order(whole, validation)[1].mean.perplexity)
