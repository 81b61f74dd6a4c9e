"""When words of synthesized speech are said: every word of the text once, at rising times within the speech."""

from __future__ import annotations

import random

import pytest

from pipeline.synthetic.espeak import speak
from pipeline.synthetic.sentences import paragraphs
from pipeline.synthetic.word_times import word_times


def sentences(language: str) -> list[str]:
    return [
        sentence
        for _, paragraph in zip(range(2), paragraphs(language, random.Random(1)), strict=False)
        for sentence in paragraph
    ]


@pytest.mark.parametrize(
    ("language", "voice"), [("en", "en-us+f1"), ("en", "en-gb-scotland+m2"), ("de", "de"), ("fr", "fr")]
)
def test_words_are_those_of_the_text_at_times_that_rise(language: str, voice: str) -> None:
    for text in sentences(language):
        speech = speak(text, voice)
        before_s = 0.0
        words = word_times(text, speech)
        for word, start_s, end_s in words:
            assert before_s <= start_s < end_s, f"{word!r} of {text!r}"
            before_s = end_s
        assert before_s <= len(speech.wav) / speech.sample_rate_hz
        assert " ".join(word for word, _, _ in words) == text


def test_words_that_are_said_as_one_are_one() -> None:
    text = "She walked in the rain, out of town."
    words = [word for word, _, _ in word_times(text, speak(text, "en-us"))]
    assert words == ["She", "walked", "in the", "rain,", "out of", "town."]


def test_a_pause_belongs_to_no_word() -> None:
    text = "Wait. Go."
    (_, _, end_s), (_, start_s, _) = word_times(text, speak(text, "en-us"))
    assert start_s - end_s > 0.1


def test_a_text_without_words_has_none() -> None:
    assert word_times(" ", speak(" ", "en-us")) == []
