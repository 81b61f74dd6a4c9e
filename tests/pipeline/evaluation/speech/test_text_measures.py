"""auto-BLEU, self-BLEU and VERT: what the reference scorers give for the same texts, and what holds for any."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.speech.text_measures import auto_bleu_gslm, auto_bleu_slamkit, self_bleu, vert

# Computed with GSLM's scorer (arithmetic and geometric mean of orders 1 and 2) and slamkit's (order 2).
AUTO_BLEU = {
    "a a a": (0.5, 0, 1),
    "a b a b": (0.833333, 0.816497, 0.666667),
    "the cat sat on the mat the cat": (0.455357, 0.422577, 0.285714),
    "so so so so so": (1, 1, 1),
    "I am. I am.": (0.833333, 0.816497, 0),
    "a b c": (0, 0, 0),
    "a": (0, 0, 0),
    "": (0, 0, 0),
}
THREE = ["the cat sat", "the cat ran", "a dog ran"]
FOUR = [
    "the cat sat on the mat the cat",
    "the cat ran to the mat",
    "a dog ran to the mat",
    "on the mat the cat sat",
]
TEXTS = st.lists(st.text("ab ", max_size=12), min_size=2, max_size=6)


@pytest.mark.parametrize(("text", "expected"), AUTO_BLEU.items(), ids=repr)
def test_auto_bleu_is_that_of_the_reference_scorers(text, expected):
    found = auto_bleu_gslm(text, "arithmetic"), auto_bleu_gslm(text), auto_bleu_slamkit(text)
    assert found == pytest.approx(expected, abs=1e-6)


def test_self_bleu_is_that_of_the_reference_scorer():
    assert self_bleu(THREE) == pytest.approx([0.57735, 0.707107, 0], abs=1e-6)
    assert self_bleu(THREE, "arithmetic") == pytest.approx([0.583333, 0.75, 0.166667], abs=1e-6)
    assert self_bleu(FOUR) == pytest.approx([0.731925, 0.894427, 0.632456, 1], abs=1e-6)


def test_vert_is_that_of_the_reference_scorer():
    assert fmean(self_bleu(FOUR)) == pytest.approx(0.814702, abs=1e-6)
    assert fmean(auto_bleu_gslm(text) for text in FOUR) == pytest.approx(0.105644, abs=1e-6)
    assert vert(self_bleu(FOUR), [auto_bleu_gslm(text) for text in FOUR]) == pytest.approx(0.293375, abs=1e-6)


@given(TEXTS)
def test_self_bleu_is_that_of_a_plain_count(texts):
    """Against every other text in turn, as the definition has it."""
    for number, (text, found) in enumerate(zip(texts, self_bleu(texts), strict=True)):
        others = [other.split() for place, other in enumerate(texts) if place != number]
        words, product = text.split(), 1.0
        for order in (1, 2):
            ngrams = [tuple(words[place : place + order]) for place in range(len(words) - order + 1)]
            hits = 0
            for ngram in set(ngrams):
                allowed = max(
                    sum(tuple(other[place : place + order]) == ngram for place in range(len(other))) for other in others
                )
                hits += min(ngrams.count(ngram), allowed)
            product *= hits / max(len(ngrams), 1)
        assert found == pytest.approx(product**0.5)


@given(TEXTS, st.integers(0, 99))
def test_the_order_of_texts_changes_nothing(texts, seed):
    places = list(range(len(texts)))
    random.Random(seed).shuffle(places)
    in_order = self_bleu(texts)
    assert self_bleu([texts[place] for place in places]) == [in_order[place] for place in places]


def test_a_single_text_has_no_self_bleu():
    with pytest.raises(ValueError, match="only one"):
        self_bleu(["a b"])
