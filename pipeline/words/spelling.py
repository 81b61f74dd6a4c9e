"""A text in the letters that an aligner knows."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True)
class SpelledWord:
    """A word as it is written, and its letters of the aligner; none if the aligner cannot spell it."""

    written: str
    letters: str


def spell(text: str, alphabet: Collection[str]) -> list[SpelledWord]:
    """Spells the words of a text.

    Case, accents and punctuation that the alphabet lacks are left out. A word with a letter or digit beyond that cannot
    be spelled. What is written without letters or digits, such as a dash, belongs to the word before it.
    """
    words: list[SpelledWord] = []
    for written in text.split():
        letters, is_whole = _spelled(written, alphabet)
        if any(character.isalnum() for character in written) or not words:
            words.append(SpelledWord(written, letters if is_whole else ""))
        else:
            words[-1] = SpelledWord(f"{words[-1].written} {written}", words[-1].letters)
    if len(words) > 1 and not any(character.isalnum() for character in words[0].written):
        words[:2] = [SpelledWord(f"{words[0].written} {words[1].written}", words[1].letters)]
    return words


def _spelled(written: str, alphabet: Collection[str]) -> tuple[str, bool]:
    """The letters of a word that the alphabet has, and whether none that is heard is missing."""
    letters = ""
    for character in unicodedata.normalize("NFC", written.replace("’", "'")):
        plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        forms = (character, character.lower(), character.upper(), plain.lower(), plain.upper())
        found = next((form for form in forms if form and all(c in alphabet for c in form)), None)
        if found is not None:
            letters += found
        elif character.isalnum():
            return "", False
    return letters, bool(letters)
