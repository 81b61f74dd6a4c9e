"""How much texts repeat themselves and each other: auto-BLEU, self-BLEU and VERT.

Two measures are called auto-BLEU, and they disagree: "a a a" has 0 by GSLM's (of orders 1 and 2) and 1 by slamkit's.

Source: Lakhotia et al. 2021, "On Generative Spoken Language Modeling from Raw Audio", section 4; for the second
auto-BLEU Maimon et al. 2025, "Slamming". The details are those by which their scorers give what the tests expect.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import TYPE_CHECKING, Literal

from pipeline.evaluation.speech.extra import needs_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Mean = Literal["geometric", "arithmetic"]
NGram = tuple[str, ...]
ORDERS = (1, 2)


def auto_bleu_gslm(text: str, mean: Mean = "geometric") -> float:
    """GSLM's auto-BLEU of orders 1 and 2: the share of n-grams that the text has once more, before or behind them.

    Words are what stands between spaces. An n-gram that only overlaps with its like does not count. A text of fewer
    than two words has 0.
    """
    words = text.split()
    if len(words) < max(ORDERS):
        return 0.0
    return _combine([_share_found_apart(words, order) for order in ORDERS], mean)


def auto_bleu_slamkit(text: str, order: int = 2) -> float:
    """slamkit's auto-BLEU of one order: the share of n-grams that the text has elsewhere too, overlapping or not.

    Words are those of NLTK's tokenizer, in the case that they have. A text without an n-gram has 0.

    Raises:
        TwistError: nltk is not installed.
    """
    ngrams = _ngrams(_nltk_tokenizer()(text), order)
    counts = Counter(ngrams)
    return sum(counts[ngram] > 1 for ngram in ngrams) / len(ngrams) if ngrams else 0.0


def self_bleu(texts: Sequence[str], mean: Mean = "geometric") -> list[float]:
    """The BLEU of each text against all others: orders 1 and 2, clipped counts, no brevity penalty, no smoothing.

    Args:
        texts: Two or more; words are what stands between spaces.
        mean: Of the precisions of the two orders.

    Raises:
        ValueError: there are fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError("self-BLEU compares each text with others, but there is only one")
    precisions = zip(*(_clipped_precisions(texts, order) for order in ORDERS), strict=True)
    return [_combine(of_text, mean) for of_text in precisions]


def vert(self_bleus: Sequence[float], auto_bleus: Sequence[float]) -> float:
    """GSLM's VERT: the geometric mean of mean self-BLEU and mean auto-BLEU, of equally many texts."""
    return math.sqrt(math.fsum(self_bleus) * math.fsum(auto_bleus)) / len(self_bleus)


def _share_found_apart(words: Sequence[str], order: int) -> float:
    ngrams = _ngrams(words, order)
    first: dict[NGram, int] = {}
    last: dict[NGram, int] = {}
    for place, ngram in enumerate(ngrams):
        first.setdefault(ngram, place)
        last[ngram] = place
    # Whether one ends before this one begins, or begins behind its end.
    found = sum(first[ngram] + order <= place or place + order <= last[ngram] for place, ngram in enumerate(ngrams))
    return found / len(ngrams)


def _clipped_precisions(texts: Sequence[str], order: int) -> list[float]:
    counts = [Counter(_ngrams(text.split(), order)) for text in texts]
    # The two highest counts in a single text: of all others' counts, the maximum is the first, or for the text that
    # has it, the second. So the work does not grow with the square of the number of texts.
    highest: dict[NGram, tuple[int, int]] = {}
    for of_text in counts:
        for ngram, count in of_text.items():
            most, second = highest.get(ngram, (0, 0))
            highest[ngram] = (count, most) if count > most else (most, max(second, count))
    precisions = []
    for of_text in counts:
        clipped = 0
        for ngram, count in of_text.items():
            most, second = highest[ngram]
            clipped += min(count, second if count == most else most)
        precisions.append(clipped / max(of_text.total(), 1))
    return precisions


def _ngrams(words: Sequence[str], order: int) -> list[NGram]:
    return [tuple(words[place : place + order]) for place in range(len(words) - order + 1)]


def _combine(values: Sequence[float], mean: Mean) -> float:
    return math.fsum(values) / len(values) if mean == "arithmetic" else math.prod(values) ** (1 / len(values))


@functools.cache
def _nltk_tokenizer() -> Callable[[str], list[str]]:
    with needs_extra("slamkit's auto-BLEU"):
        from nltk.tokenize import NLTKWordTokenizer
    tokenize: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
    return tokenize
