"""Bits of units: on printed values, and against scipy's entropy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from pipeline.evaluation.units.bitrate import bitrate, perplexity, surprise_bits


def test_bitrate_is_zerospeechs():
    assert bitrate([np.array([1, 1, 2, 2])], 2.0) == pytest.approx(2.0)
    assert bitrate([np.array([1, 1]), np.array([2, 2])], 2.0) == pytest.approx(2.0), "frequencies are pooled over files"
    assert bitrate([np.array([5, 5, 5])], 1.0) == 0.0


def test_bits_are_the_entropy_of_all_symbols():
    generator = np.random.default_rng(0)
    sequences = [generator.geometric(0.3, size=size) for size in (50, 1, 300)]
    _, counts = np.unique(np.concatenate(sequences), return_counts=True)
    assert surprise_bits(sequences).sum() == pytest.approx(351 * entropy(counts, base=2))
    assert perplexity(sequences) == pytest.approx(np.exp(entropy(counts)))


def test_perplexity_at_its_bounds():
    assert perplexity([np.arange(100)]) == pytest.approx(100)
    assert perplexity([np.zeros(9, int)]) == pytest.approx(1)
