"""Samples with words, drawn at random."""

from __future__ import annotations

import numpy as np

from model.lm.samples import AlignedSample
from model.lm.vocab import Vocabulary

TEXT_SIZE = 50
NUM_UNITS = 20
VOCABULARY = Vocabulary(NUM_UNITS, offset=TEXT_SIZE + 2, text_size=TEXT_SIZE)


def draw_aligned(rng: np.random.Generator, num_words: int, most_units: int = 6) -> AlignedSample:
    """A sample of `num_words` words of 1 to `most_units` units and of 1 to 3 tokens each; some cuts divide a unit."""
    firsts, ends, at = [], [], 0
    for word in range(num_words):
        is_divided = word > 0 and rng.random() < 0.4
        firsts.append(at - is_divided)
        at = max(at, firsts[-1] + int(rng.integers(1, most_units + 1)))
        ends.append(at)
    steps = rng.integers(1, NUM_UNITS, at)
    units = (np.cumsum(steps) % NUM_UNITS).astype(np.uint16)  # no two neighbours are equal
    num_tokens = rng.integers(1, 4, num_words)
    tokens = rng.integers(0, TEXT_SIZE, num_tokens.sum())
    words = np.stack([num_tokens, firsts, ends], axis=1)
    return AlignedSample(units, tokens.astype(np.uint32), words.astype(np.uint32))
