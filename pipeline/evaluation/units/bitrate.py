"""Bits that units take: the entropy of their frequencies, times how many there are a second.

As ZeroSpeech 2020 has it: frequencies are pooled over all files, and no unit helps to predict the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def surprise_bits(sequences: Sequence[NDArray[np.integer]]) -> NDArray[np.float64]:
    """The bits of each sequence [n] by the frequencies of its symbols in all of them, [number of sequences]."""
    lengths = [len(sequence) for sequence in sequences]
    _, symbols, counts = np.unique(np.concatenate(sequences), return_inverse=True, return_counts=True)
    bits = np.log2(counts.sum() / counts)[symbols]
    owner = np.repeat(np.arange(len(sequences)), lengths)
    return np.bincount(owner, bits, len(sequences)).astype(np.float64)


def bitrate(sequences: Sequence[NDArray[np.integer]], duration_s: float) -> float:
    """Bits a second of sequences of symbols [n] that stand for `duration_s` of audio in all."""
    return float(surprise_bits(sequences).sum()) / duration_s


def perplexity(sequences: Sequence[NDArray[np.integer]]) -> float:
    """How many equally frequent symbols would be as hard to predict as these; n of n symbols at most."""
    return float(2 ** (surprise_bits(sequences).sum() / sum(map(len, sequences))))
