from __future__ import annotations

import numpy as np
import pytest

from model.lm.confidence import perplexity_intervals, speakers_of
from model.lm.samples import UnitSamples
from tests.model.conftest import MakeDataset


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Speakers differ more than samples of one do; intervals over samples alone would be far too narrow."""
    rng = np.random.default_rng(0)
    holds = 0
    for trial in range(200):
        of_speakers = rng.normal(2.0, 0.3, 40)
        speakers = np.repeat(np.arange(40), 25)
        nll = (of_speakers[speakers] + rng.normal(0, 0.1, 1000)) * 10
        targets = np.full(1000, 10)
        low, high = perplexity_intervals(
            nll, targets, ["a"] * 1000, [str(s) for s in speakers], num_draws=300, seed=trial
        )["a"]
        holds += low <= np.exp(2.0) <= high
    assert 175 <= holds <= 199, f"{holds} of 200 intervals of level 0.95 hold the true perplexity"


def test_corpora_are_resampled_each_by_itself() -> None:
    nll, targets = np.array([10.0, 20.0, 7.0]), np.array([10, 10, 10])
    arguments = (nll, targets, ["one", "one", "other"], ["a", "b", "a"])
    intervals = perplexity_intervals(*arguments)
    assert intervals == perplexity_intervals(*arguments), "the same seed must give the same interval"
    assert intervals["other"] == pytest.approx((np.exp(0.7), np.exp(0.7))), "one speaker leaves nothing to draw from"
    assert intervals["one"] == pytest.approx((np.exp(1.0), np.exp(2.0)))
    low, high = intervals["mean"]
    assert low == pytest.approx((np.exp(1.0) + np.exp(0.7)) / 2)
    assert high == pytest.approx((np.exp(2.0) + np.exp(0.7)) / 2)


def test_samples_without_a_speaker_are_of_their_recording(make_dataset: MakeDataset) -> None:
    units = [np.array([1, 2, 3], dtype=np.uint16), np.array([4, 5], dtype=np.uint16)]
    samples = UnitSamples(make_dataset({"validation": units}), "validation", max_units=2)
    assert len(speakers_of(samples)) == len(samples)
