from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.words.spelling import SpelledWord, spell

UPPER = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")


@given(st.text(max_size=60))
def test_nothing_of_a_text_is_lost(text: str) -> None:
    words = spell(text, UPPER)
    assert " ".join(word.written for word in words).split() == text.split()
    assert all(letter in UPPER for word in words for letter in word.letters)


def test_words_are_spelled_in_the_alphabets_case_without_accents_and_punctuation() -> None:
    assert spell("Don’t, naïve — “cat”!", UPPER) == [
        SpelledWord("Don’t,", "DON'T"),
        SpelledWord("naïve —", "NAIVE"),
        SpelledWord("“cat”!", "CAT"),
    ]
    assert spell("- Gut GRÖßE", frozenset("abcdefghijklmnopqrstuvwxyzäöüß")) == [
        SpelledWord("- Gut", "gut"),
        SpelledWord("GRÖßE", "größe"),
    ]


def test_what_the_alphabet_cannot_say_has_no_letters() -> None:
    assert [word.letters for word in spell("in 1999 щи B2B", UPPER)] == ["IN", "", "", ""]
    assert spell("... !", UPPER) == [SpelledWord("... !", "")]
    assert spell("", UPPER) == []
