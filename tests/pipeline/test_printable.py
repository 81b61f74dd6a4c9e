from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.printable import JOINERS, printable, printable_in


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c)[0] == "C" and c not in JOINERS]
    assert len(shown.splitlines()) <= 1
    shown.encode()


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_words_of_any_language_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\ntwist: all is well", "a\\ntwist: all is well"),
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),
        ("\x9b2J\x85\u2028", "\\x9b2J\\x85\\u2028"),
        ("\udc9b", "\\udc9b"),
        ("می\u200cخواهم a\u00a0b", "می\u200cخواهم a\u00a0b"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_all_text_of_a_description() -> None:
    assert printable_in({"\a": ["\b", 1, {"x": ("\n", None)}]}) == {"\\x07": ["\\x08", 1, {"x": ["\\n", None]}]}
