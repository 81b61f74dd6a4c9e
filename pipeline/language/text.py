"""Identifies the language of a text with py3langid."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from pipeline.languages import NO_LINGUISTIC_CONTENT, normalize_code

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def text_probabilities(text: str) -> dict[str, float]:
    """The probability of each language, by its code; empty if the classifier takes the text for no language at all."""
    ranked = _identifier().rank(text)
    likeliest, _ = ranked[0]
    if likeliest == NO_LINGUISTIC_CONTENT:
        return {}
    probabilities: dict[str, float] = {}
    for label, probability in ranked:
        code = normalize_code(label) or label
        probabilities[code] = probabilities.get(code, 0.0) + float(probability)
    no_language = probabilities.pop(NO_LINGUISTIC_CONTENT, 0.0)
    assert math.isclose(sum(probabilities.values()), 1.0 - no_language, abs_tol=1e-3), "they do not add up to 1"
    return {code: probability / (1.0 - no_language) for code, probability in probabilities.items()}


def with_prior(probabilities: Mapping[str, float], languages: Collection[str], prior: float) -> dict[str, float]:
    """Probabilities of a classifier to which all languages are equally likely, if `languages` together have this prior.

    Args:
        probabilities: By language, summing to 1.
        languages: The wanted languages.
        prior: Probability that a text is in one of them, before it is read; between 0 and 1.
    """
    wanted = probabilities.keys() & set(languages)
    if not wanted or len(wanted) == len(probabilities):
        return dict(probabilities)
    odds = prior / (1 - prior) * (len(probabilities) - len(wanted)) / len(wanted)
    weighted = {code: value * (odds if code in wanted else 1.0) for code, value in probabilities.items()}
    total = sum(weighted.values())
    return {code: value / total for code, value in weighted.items()}


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
