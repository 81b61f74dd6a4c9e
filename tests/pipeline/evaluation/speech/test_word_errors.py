"""Word errors after Whisper's normalizer, and phrases in a row."""

from __future__ import annotations

import sys

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.speech.normalize import english_normalizer
from pipeline.evaluation.speech.word_errors import WordErrors, most_repeats, word_errors

# (said, heard) of each clip, and the rate of all: what jiwer gives, and what it gives for clips without words.
RATES = [
    ([("X", "X X Y Y")], 3),
    ([("X Y X", "X Z")], 2 / 3),
    ([("a b c", "a c"), ("d", "d d")], 0.5),
    ([("", "x"), ("a b", "a b")], 0.5),
]


@pytest.mark.parametrize(("clips", "rate"), RATES, ids=[repr(clips) for clips, _ in RATES])
def test_errors_are_pooled_over_clips(clips, rate):
    found = [word_errors(said, heard) for said, heard in clips]
    assert sum(each.errors for each in found) / sum(each.num_words for each in found) == pytest.approx(rate)


def test_a_clip_without_words_has_only_insertions():
    assert word_errors("", "a b") == WordErrors(0, 0, 2, 0)
    assert word_errors("", "") == WordErrors(0, 0, 0, 0)
    assert word_errors("a b", "") == WordErrors(0, 2, 0, 2)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Mr. Smith paid twenty-one dollars, didn't he?", "mister smith paid $21 did not he"),
        ("um, hmm", ""),
        ("O'CLOCK", "0 clock"),
        ("colour", "color"),
        ("[noise] <unk> (laughs) Hello", "hello"),
    ],
)
def test_texts_are_normalized_as_whisper_does_it(text, normalized):
    assert english_normalizer()(text) == normalized


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("", 0),
        ("a b c", 1),
        ("a a a b", 3),
        ("you know you know you know", 3),
        ("I am not sure " * 6, 6),
        ("a b a c a d", 1),
    ],
)
def test_the_longest_row_of_a_phrase_is_counted(text, repeats):
    assert most_repeats(text) == repeats


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(TwistError, match=r"jiwer.*\.\[asr\]"):
        word_errors("a", "b")
