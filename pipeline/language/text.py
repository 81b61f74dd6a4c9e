"""Identifies the language of a text with py3langid."""

from __future__ import annotations

import functools
import math
from typing import Any

from pipeline.languages import normalize_code

# More text adds no certainty, and a transcript of hours would take long.
LONGEST_TEXT_CHARS = 4_000


def text_probabilities(text: str) -> dict[str, float]:
    """The probability of each language, by its code; a text all in upper case is lower-cased first."""
    text = text[:LONGEST_TEXT_CHARS]
    probabilities: dict[str, float] = {}
    for label, probability in _identifier().rank(text.lower() if text.isupper() else text):
        code = normalize_code(label) or label
        probabilities[code] = probabilities.get(code, 0.0) + float(probability)
    assert math.isclose(sum(probabilities.values()), 1.0, abs_tol=1e-3), "probabilities do not add up to 1"
    return probabilities


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
