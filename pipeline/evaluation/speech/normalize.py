"""Texts as they are compared: Whisper's English normalizer, on what was said and on what was heard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluation.speech.extra import needs_extra

if TYPE_CHECKING:
    from collections.abc import Callable

NORMALIZER = "Whisper's English normalizer"


def english_normalizer() -> Callable[[str], str]:
    """Lower-cases, drops brackets and fillers, spells out contractions, writes numbers as digits, in American spelling.

    Raises:
        TwistError: whisper-normalizer is not installed.
    """
    with needs_extra("word error rates"):
        from whisper_normalizer.english import EnglishTextNormalizer
    normalize: Callable[[str], str] = EnglishTextNormalizer()
    return normalize
