"""Token ids of the sequences that a speech and text LM is trained on.

    speech        [SPEECH] units
    text          [TEXT] tokens
    speech_text   [SPEECH] units [TEXT] tokens
    text_speech   [TEXT] tokens [SPEECH] units
    interleaved   [TEXT] tokens [SPEECH] units [TEXT] tokens ...

An interleaved sample is cut between words. Speech of several words is what the shards hold from the first unit of the
first to the last of the last: as if cut out of the sample. Where a cut divides a run of one unit, both sides have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from model.lm.loader import MicroBatch
from model.lm.mixture.config import TEXT_SPEECH
from model.lm.mixture.spans import span_starts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.samples import AlignedSample
    from model.lm.vocab import Vocabulary


def speech_sequences(units: Sequence[NDArray[np.uint16]], vocabulary: Vocabulary) -> MicroBatch:
    """[SPEECH] and the units of each sample."""
    assert vocabulary.speech_id is not None
    return _joined([part for one in units for part in ([vocabulary.speech_id], vocabulary.encode(one))], 2)


def text_sequences(tokens: Sequence[NDArray[np.unsignedinteger]], vocabulary: Vocabulary) -> MicroBatch:
    """[TEXT] and the tokens of each document."""
    assert vocabulary.text_id is not None
    return _joined([part for one in tokens for part in ([vocabulary.text_id], _text_ids(one, vocabulary))], 2)


def pair_sequences(samples: Sequence[AlignedSample], vocabulary: Vocabulary, kind: str) -> MicroBatch:
    """The units and the text of each sample, in the order that `kind` says."""
    assert vocabulary.speech_id is not None and vocabulary.text_id is not None
    parts: list[object] = []
    for sample in samples:
        speech = ([vocabulary.speech_id], vocabulary.encode(sample.units))
        text = ([vocabulary.text_id], _text_ids(sample.tokens, vocabulary))
        parts += [*text, *speech] if kind == TEXT_SPEECH else [*speech, *text]
    return _joined(parts, 4)


def interleaved_sequences(
    samples: Sequence[AlignedSample], is_speech: NDArray[np.bool_], vocabulary: Vocabulary, max_tokens: int
) -> MicroBatch:
    """Samples in turn as text and as speech; one of more than `max_tokens` becomes several sequences.

    Args:
        samples: [S].
        is_speech: [W] which of the samples' words are speech, one sample after the other.
        vocabulary: The model's.
        max_tokens: The longest sequence.
    """
    assert vocabulary.speech_id is not None and vocabulary.text_id is not None
    if not samples:
        return _joined([], 1)
    num_words = np.array([len(sample.words) for sample in samples])
    words = np.concatenate([sample.words for sample in samples]).astype(np.int64)
    num_tokens, first_unit, end_unit = words.T
    sample_of_word = np.repeat(np.arange(len(samples)), num_words)
    num_units_before = _before([len(sample.units) for sample in samples])[sample_of_word]
    starts_span = span_starts(is_speech, num_words)
    starts_sequence = np.zeros(len(words), np.bool_)
    starts_sequence[_before(num_words)] = True

    # All that sequences are made of: units, text tokens, and the two ids that switch between them.
    units = vocabulary.encode(np.concatenate([sample.units for sample in samples]))
    tokens = _text_ids(np.concatenate([sample.tokens for sample in samples]), vocabulary)
    pool = np.concatenate([units, tokens, [vocabulary.text_id, vocabulary.speech_id]])
    switches = len(units) + len(tokens) + is_speech
    text_from = len(units) + _before(num_tokens)

    def lengths_of_words() -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = starts_span + np.where(is_speech, end_unit - unit_from(), num_tokens)
        return lengths

    def unit_from() -> NDArray[np.int64]:
        # Within a span, where the word before has ended: its last unit may be this one's first.
        from_unit: NDArray[np.int64] = np.where(starts_span, first_unit, np.roll(end_unit, 1))
        return from_unit

    for first, end in _too_long(np.add.reduceat(lengths_of_words(), _before(num_words)), num_words, max_tokens):
        whole = 1 + np.where(is_speech, end_unit - first_unit, num_tokens)  # as the first of a sequence
        starts_sequence[first:end] = _new_sequences(lengths_of_words()[first:end], whole[first:end], max_tokens)
        starts_span[first:end] |= starts_sequence[first:end]

    sources = np.stack([switches, np.where(is_speech, num_units_before + unit_from(), text_from)], axis=1)
    lengths = np.stack([starts_span, lengths_of_words() - starts_span], axis=1)
    token_ids = pool[_stretches(sources.ravel(), lengths.ravel())]
    sequence_lengths = np.add.reduceat(lengths.sum(axis=1), np.flatnonzero(starts_sequence))
    # A word that is longer than a sequence may be goes on in the next, as long samples of units do.
    parts = [min(max_tokens, n - at) for n in sequence_lengths.tolist() for at in range(0, n, max_tokens)]
    return MicroBatch(torch.from_numpy(token_ids), tuple(parts))


def _text_ids(tokens: NDArray[np.unsignedinteger], vocabulary: Vocabulary) -> NDArray[np.int64]:
    if tokens.size and int(tokens.max()) >= vocabulary.text_size:
        raise TwistError(
            f"a text has token {int(tokens.max())}, which is none of the model's {vocabulary.text_size}: it was made "
            f"with another tokenizer"
        )
    return tokens.astype(np.int64)


def _too_long(lengths: NDArray[np.int64], num_words: NDArray[np.int64], max_tokens: int) -> list[tuple[int, int]]:
    """The words, as (first, end), of each sample whose sequence would be longer than `max_tokens`."""
    firsts = _before(num_words)
    return [(int(firsts[i]), int(firsts[i] + num_words[i])) for i in np.flatnonzero(lengths > max_tokens)]


def _new_sequences(lengths: NDArray[np.int64], whole: NDArray[np.int64], max_tokens: int) -> NDArray[np.bool_]:
    """Which words of a sample begin a sequence, so that each holds as many whole words as there is room for."""
    starts = np.zeros(len(lengths), np.bool_)
    num_tokens = max_tokens
    for word, (further, first) in enumerate(zip(lengths.tolist(), whole.tolist(), strict=True)):
        starts[word] = word == 0 or num_tokens + further > max_tokens
        num_tokens = first if starts[word] else num_tokens + further
    return starts


def _stretches(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of stretches from `starts` on, one after the other."""
    total = int(lengths.sum())
    return np.repeat(starts - _before(lengths), lengths) + np.arange(total)


def _before(lengths: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """What lies before each of some neighbours of these lengths."""
    return np.cumsum(lengths, dtype=np.int64) - lengths


def _joined(parts: Sequence[object], parts_per_sequence: int) -> MicroBatch:
    arrays = [np.asarray(part, np.int64) for part in parts]
    token_ids = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
    lengths = [len(array) for array in arrays]
    sequences = (
        sum(lengths[first : first + parts_per_sequence]) for first in range(0, len(lengths), parts_per_sequence)
    )
    return MicroBatch(torch.from_numpy(token_ids), tuple(sequences))
