"""Spans: every rule's lengths and shares, and that a draw depends on nothing but the seed and the place."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from model.lm.mixture.config import SpanConfig
from model.lm.mixture.spans import draw_speech, span_starts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RULES = [
    SpanConfig(),
    SpanConfig(text_words=(2, 4), speech_words=(1, 3)),
    SpanConfig("random", probability=0.4),
    SpanConfig("span", probability=0.1, span_words=4),
    SpanConfig("poisson", span_words=5, speech_share=0.3),
]
NUM_WORDS = np.random.default_rng(0).integers(1, 120, 200)


def by_sample(is_speech: NDArray[np.bool_], num_words: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    return np.split(is_speech, np.cumsum(num_words)[:-1])


def spans(is_speech: NDArray[np.bool_]) -> list[tuple[bool, int]]:
    return [(bool(kind), len(list(words))) for kind, words in groupby(is_speech.tolist())]


@pytest.mark.parametrize("config", RULES, ids=lambda config: config.rule)
def test_a_draw_depends_on_seed_and_place_alone(config: SpanConfig) -> None:
    places = np.arange(len(NUM_WORDS)) + 10**12
    together = by_sample(draw_speech(NUM_WORDS, places, 7, config), NUM_WORDS)
    for i in (0, 17, 199):
        alone = draw_speech(NUM_WORDS[i : i + 1], places[i : i + 1], 7, config)
        assert np.array_equal(alone, together[i]), "drawn with others, or alone: the same"
    elsewhere = by_sample(draw_speech(NUM_WORDS, places + 1, 7, config), NUM_WORDS)
    other_seed = by_sample(draw_speech(NUM_WORDS, places, 8, config), NUM_WORDS)
    for others in (elsewhere, other_seed):
        assert sum(map(np.array_equal, others, together)) < len(together) / 3


@pytest.mark.parametrize("config", RULES[:2])
def test_spans_alternate_within_their_ranges(config: SpanConfig) -> None:
    drawn = by_sample(draw_speech(NUM_WORDS, np.arange(len(NUM_WORDS)), 0, config), NUM_WORDS)
    begin_as_speech, seen = 0, set()
    for sample in drawn:
        found = spans(sample)
        begin_as_speech += found[0][0]
        assert len(found) > 1 or len(sample) == 1, "two words or more: one of each kind at least"
        for kind, length in found[1:-1]:
            shortest, longest = config.speech_words if kind else config.text_words
            assert shortest <= length <= longest
            seen.add((kind, length))
    assert 60 < begin_as_speech < 140
    if config.text_words == (2, 4):
        assert seen == {(False, n) for n in (2, 3, 4)} | {(True, n) for n in (1, 2, 3)}


def test_each_word_by_itself() -> None:
    drawn = draw_speech(np.array([50_000]), np.array([3]), 0, RULES[2])
    assert drawn.mean() == pytest.approx(0.4, abs=0.01)
    assert (drawn[1:] & drawn[:-1]).mean() == pytest.approx(0.16, abs=0.01), "words are independent"


def test_spans_that_are_renewed() -> None:
    num_words = np.array([50_000, 6])
    first, second = by_sample(draw_speech(num_words, np.array([3, 4]), 0, RULES[3]), num_words)
    assert min(length for kind, length in spans(first)[:-1] if kind) == 4
    assert first.mean() == pytest.approx(1 - 0.9**4, abs=0.01), "a word is text if none of four began a span"
    certain = SpanConfig("span", probability=1.0, span_words=4)
    assert draw_speech(num_words, np.array([3, 4]), 0, certain).all()
    never = SpanConfig("span", probability=0.0, span_words=4)
    assert not draw_speech(num_words, np.array([3, 4]), 0, never).any(), "no span runs on from the sample before"
    assert len(second) == 6


def test_poisson_spans_reach_their_share_and_do_not_touch() -> None:
    config = RULES[4]
    num_words = np.full(300, 400)
    for sample in by_sample(draw_speech(num_words, np.arange(300), 0, config), num_words):
        assert sample.sum() >= math.ceil(0.3 * 400)
        assert sample.sum() < 0.3 * 400 + 30, "no span begins once the share is reached"
    lengths = [
        length
        for sample in by_sample(draw_speech(num_words, np.arange(300), 0, config), num_words)
        for kind, length in spans(sample)[1:-1]
        if kind
    ]
    # Long ones find room less often, and neighbours that touch from the left count as one.
    assert np.mean(lengths) == pytest.approx(5, abs=0.7)


def test_span_starts() -> None:
    is_speech = np.array([False, False, True, True, False, False])
    assert span_starts(is_speech, np.array([2, 1, 3])).tolist() == [True, False, True, True, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "fixed"}, "one of alternate, random, span, poisson"),
        ({"text_words": (0, 3)}, "1 or more, and rising"),
        ({"speech_words": (5, 3)}, "1 or more, and rising"),
        ({"rule": "random", "probability": 1.5}, "from 0 to 1"),
        ({"rule": "span", "span_words": 0}, "at least 1"),
        ({"probability": 0.3}, "means nothing to the rule alternate"),
        ({"rule": "random", "text_words": (1, 2)}, "means nothing to the rule random"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        SpanConfig(**settings)
