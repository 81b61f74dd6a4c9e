"""Checks the words of a sample: text, tokens and times that fit each other, and words that tile the units.

As in verify.py, each function yields a sentence per violation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

TIME_TOLERANCE_S = 1e-6


def verify_sample_words(
    where: str,
    description: dict[str, Any],
    tokens: NDArray[Any],
    table: NDArray[Any],
    num_units: int,
    frame_rate_hz: float,
    vocab_size: int,
) -> Iterator[str]:
    """The words of one sample.

    Args:
        where: The sample, for sentences.
        description: Its JSON.
        tokens: text.npy.
        table: words.npy.
        num_units: Its units.
        frame_rate_hz: The encoder's.
        vocab_size: Above every token.
    """
    words = description["words"]
    if not (tokens.dtype == table.dtype == np.uint32 and tokens.ndim == 1 and table.shape == (len(words), 3)):
        told = f"text is {tokens.dtype} {tokens.shape}, words are {table.dtype} {table.shape}"
        yield f"{where}: {told}, of {len(words)} words"
        return
    if description["text"] != " ".join(word for word, _, _ in words):
        yield f"{where}: its words do not make up its text"
    times = np.array([times for _, *times in words], float).ravel()
    length_s = description["num_frames"] / frame_rate_hz
    if (np.diff(times, prepend=0.0, append=length_s) < -TIME_TOLERANCE_S).any() or not np.isfinite(times).all():
        yield f"{where}: times of its words do not rise, or lie outside its {length_s:.2f} s"
    num_tokens, first, end = table.T.astype(np.int64)
    if num_tokens.sum() != len(tokens) or num_tokens.min(initial=1) < 1:
        yield f"{where}: its words have {num_tokens.sum()} tokens, its text {len(tokens)}"
    if len(tokens) and tokens.max() >= vocab_size:
        yield f"{where}: token {tokens.max()} is outside the vocabulary of {vocab_size}"
    # Of a unit that a cut divides, both words have a part.
    tiles = first[:1].sum() == 0 and end[-1:].sum() == num_units and np.isin(end[:-1] - first[1:], (0, 1)).all()
    if not tiles or (end <= first).any():
        yield f"{where}: its words do not tile its {num_units} units"
