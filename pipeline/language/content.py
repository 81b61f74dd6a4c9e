"""Which words of a text tell its language, and whether they are enough to judge by.

Transcripts and titles hold much that is the same in every language: remarks such as [MUSIC], tags, numbers, codes, file
names, people and places. A classifier gives that some language, too.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Remarks on what is heard, and markup: [MUSIC], (laughs), {cough}, <unk>, </i>, *sighs*, ♪ ... ♪.
_REMARK = re.compile(
    r"\[[^\[\]]*\]|\([^()]*\)|\{[^{}]*\}|<[^<>]*>|（[^（）]*）|［[^［］]*］|【[^【】]*】|\*[^*\n]{1,40}\*|♪[^♪\n]*♪"
)
DEEPEST_NESTING = 3
# Numbers, codes, addresses, names of files; where words are written without spaces, only their ASCII characters.
_CODE = re.compile(r"[\d_/\\@#=~^|]|\w\.\w\w")
_ASCII = re.compile(r"[!-~]+")
_FILLER = re.compile(r"u+[hm]+|e+[hr]+|h+m+|m+h*m*|[ao]+h+|h+u+h+|(?:ha)+h?|ok|okay|(?:[um]+h*|a+h*)-h?[um]+h*m*")
# Letters in different words that are neither names nor fillers, from which py3langid is right (docs/performance.md).
MIN_PLAIN_LETTERS = 6
# More text adds no certainty, and a transcript of hours would take long.
ENOUGH_CHARS = 4_000


def telling_words(text: str, min_chars: int) -> str | None:
    """The words of a text, without all that is the same in every language; None if they are too few to judge by.

    A text all in upper case is lower-cased, and a long one ends after ENOUGH_CHARS.

    Args:
        text: A transcript, a title, a description; markup and remarks in brackets do not count.
        min_chars: Minimum length of the words. Wide characters (Chinese, Japanese, Korean) count twice.
    """
    text = html.unescape(text)
    for _ in range(DEEPEST_NESTING):
        text = _REMARK.sub(" ", text)
    told = " ".join(_first_words(text))
    if told.isupper():
        told = told.lower()
    if _width(told) < min_chars or sum(map(_width, _plain_words(told))) < MIN_PLAIN_LETTERS:
        return None
    return told


def _first_words(text: str) -> Iterator[str]:
    length = 0
    for token in text.split():
        word = _without_punctuation(_ASCII.sub("", token) if _CODE.search(token) else token)
        if word:
            yield word[: ENOUGH_CHARS - length]
            length += len(word) + 1
        if length >= ENOUGH_CHARS:
            return


def _without_punctuation(token: str) -> str:
    start, end = 0, len(token)
    while start < end and not token[start].isalpha():
        start += 1
    while start < end and not _is_letter(token[end - 1]):
        end -= 1
    return token[start:end]


def _plain_words(text: str) -> set[str]:
    """The different words that are neither capitalized (names, most words of titles), nor fillers, nor one letter."""
    return {word for word in text.split() if _is_wide(word) or (len(word) > 1 and _is_plain(word))}


def _is_plain(word: str) -> bool:
    return not word[0].isupper() and not _FILLER.fullmatch(word.casefold())


def _is_letter(character: str) -> bool:
    return character.isalpha() or unicodedata.category(character).startswith("M")  # vowel signs of Indic scripts


def _width(text: str) -> int:
    return len(text) if text.isascii() else len(text) + sum(map(_is_wide, text))


def _is_wide(text: str) -> bool:
    return not text.isascii() and any(unicodedata.east_asian_width(character) == "W" for character in text)
