"""Token ids of the sequences that a speech and text LM is trained on.

    speech        [SPEECH] units
    text          [TEXT] tokens
    speech_text   [SPEECH] units [TEXT] tokens
    text_speech   [TEXT] tokens [SPEECH] units
    interleaved   [TEXT] tokens [SPEECH] units [TEXT] tokens ...

In place of units an expressive model has the merged stream of units, pitch and style (streams.py).

An interleaved sample is cut between words. Speech of several words is what is said from the cut before the first to the
cut behind the last: as if cut out of the sample, so that it need not begin with pitch or style. Where a cut divides a
run of one unit, both sides have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from model.lm.loader import MicroBatch
from model.lm.mixture.config import TEXT_SPEECH
from model.lm.mixture.spans import span_starts
from model.lm.streams import merge
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.samples import AlignedSample
    from model.lm.streams import StreamRates
    from model.lm.vocab import Vocabulary


def speech_sequences(units: Sequence[NDArray[np.uint16]], vocabulary: Vocabulary) -> MicroBatch:
    """[SPEECH] and the units of each sample."""
    assert vocabulary.speech_id is not None
    return _joined([part for one in units for part in ([vocabulary.speech_id], vocabulary.encode(one))], 2)


def stream_sequences(
    samples: Sequence[AlignedSample],
    pieces: tuple[NDArray[np.int64], NDArray[np.int64]],
    vocabulary: Vocabulary,
    rates: StreamRates,
) -> MicroBatch:
    """[SPEECH] and a piece of the merged stream of each sample.

    Args:
        samples: [S] with streams.
        pieces: [S] the first token of each piece, and the one after the last.
        vocabulary: The model's.
        rates: The streams'.
    """
    assert vocabulary.speech_id is not None
    speech = [ids[first:end] for ids, first, end in zip(_speech(samples, vocabulary, rates), *pieces, strict=True)]
    return _joined([part for one in speech for part in ([vocabulary.speech_id], one)], 2)


def text_sequences(tokens: Sequence[NDArray[np.unsignedinteger]], vocabulary: Vocabulary) -> MicroBatch:
    """[TEXT] and the tokens of each document."""
    assert vocabulary.text_id is not None
    return _joined([part for one in tokens for part in ([vocabulary.text_id], _text_ids(one, vocabulary))], 2)


def pair_sequences(
    samples: Sequence[AlignedSample], vocabulary: Vocabulary, kind: str, rates: StreamRates | None = None
) -> MicroBatch:
    """The speech and the text of each sample, in the order that `kind` says; `rates` as `interleaved_sequences`."""
    assert vocabulary.speech_id is not None and vocabulary.text_id is not None
    parts: list[object] = []
    for sample, ids in zip(samples, _speech(samples, vocabulary, rates), strict=True):
        speech = ([vocabulary.speech_id], ids)
        text = ([vocabulary.text_id], _text_ids(sample.tokens, vocabulary))
        parts += [*text, *speech] if kind == TEXT_SPEECH else [*speech, *text]
    return _joined(parts, 4)


def interleaved_sequences(
    samples: Sequence[AlignedSample],
    is_speech: NDArray[np.bool_],
    vocabulary: Vocabulary,
    max_tokens: int,
    rates: StreamRates | None = None,
) -> MicroBatch:
    """Samples in turn as text and as speech; one of more than `max_tokens` becomes several sequences.

    Args:
        samples: [S].
        is_speech: [W] which of the samples' words are speech, one sample after the other.
        vocabulary: The model's.
        max_tokens: The longest sequence.
        rates: Those of units, pitch and style; None: speech is units alone.
    """
    assert vocabulary.speech_id is not None and vocabulary.text_id is not None
    if not samples:
        return _joined([], 1)
    num_words = np.array([len(sample.words) for sample in samples])
    num_tokens = np.concatenate([sample.words[:, 0] for sample in samples]).astype(np.int64)
    spoken = _spoken_words(samples, vocabulary, rates)
    starts_span = span_starts(is_speech, num_words)
    starts_sequence = np.zeros(len(num_tokens), np.bool_)
    starts_sequence[_before(num_words)] = True

    # All that sequences are made of: speech, text tokens, units that are said again, and the two ids between them.
    tokens = _text_ids(np.concatenate([sample.tokens for sample in samples]), vocabulary)
    pool = np.concatenate([spoken.ids, tokens, spoken.again, [vocabulary.text_id, vocabulary.speech_id]])
    text_from = len(spoken.ids) + _before(num_tokens)
    again_from = len(spoken.ids) + len(tokens) + np.arange(len(num_tokens))
    switches = len(pool) - 2 + is_speech

    def is_again() -> NDArray[np.bool_]:
        # Within a span the unit that lasts over the cut has been said.
        said: NDArray[np.bool_] = spoken.is_divided & starts_span & is_speech
        return said

    def lengths_of_words() -> NDArray[np.int64]:
        speech = spoken.end - spoken.first + is_again()
        lengths: NDArray[np.int64] = np.where(is_speech, speech, num_tokens).astype(np.int64)
        lengths += starts_span
        return lengths

    for start, stop in _too_long(np.add.reduceat(lengths_of_words(), _before(num_words)), num_words, max_tokens):
        # as the first of a sequence
        whole = 1 + np.where(is_speech, spoken.is_divided + spoken.end - spoken.first, num_tokens)
        starts_sequence[start:stop] = _new_sequences(lengths_of_words()[start:stop], whole[start:stop], max_tokens)
        starts_span[start:stop] |= starts_sequence[start:stop]

    # Of each word: the switch; pitch and style that are said at the very cut; the unit that it divides; the rest.
    num_head = np.where(is_again(), spoken.num_at_cut, 0)
    rest = np.where(is_speech, spoken.end - spoken.first - num_head, num_tokens)
    rest_from = np.where(is_speech, spoken.first + num_head, text_from)
    sources = np.stack([switches, spoken.first, again_from, rest_from], axis=1)
    lengths = np.stack([starts_span, num_head, is_again(), rest], axis=1).astype(np.int64)
    token_ids = pool[_stretches(sources.ravel(), lengths.ravel())]
    sequence_lengths = np.add.reduceat(lengths.sum(axis=1), np.flatnonzero(starts_sequence))
    # A word that is longer than a sequence may be goes on in the next, as long samples of units do.
    parts = [min(max_tokens, n - at) for n in sequence_lengths.tolist() for at in range(0, n, max_tokens)]
    return MicroBatch(torch.from_numpy(token_ids), tuple(parts))


class _SpokenWords(NamedTuple):
    """The speech of some samples' words, one sample after the other.

    Attributes:
        ids: [N] tokens of all samples.
        first, end: [W] the first token that is said from the cut before each word on, and the first behind that word.
        is_divided: [W] whether the cut divides a run of one unit,
        again: [W] and the id of that unit.
        num_at_cut: [W] tokens of pitch and style, from `first` on, that are said at the time of the cut.
    """

    ids: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    is_divided: NDArray[np.bool_]
    again: NDArray[np.int64]
    num_at_cut: NDArray[np.int64]


def _spoken_words(samples: Sequence[AlignedSample], vocabulary: Vocabulary, rates: StreamRates | None) -> _SpokenWords:
    num_words = np.array([len(sample.words) for sample in samples])
    words = np.concatenate([sample.words for sample in samples]).astype(np.int64)
    num_units = np.array([len(sample.units) for sample in samples])
    units_before = np.repeat(_before(num_units), num_words)
    units = vocabulary.encode(np.concatenate([sample.units for sample in samples]))
    again = units[units_before + words[:, 1]]
    if rates is None:
        # The units that begin in a word: from the one after the last of the word before.
        first = np.roll(words[:, 2], 1)
        first[_before(num_words)] = 0
        nothing = np.zeros(len(words), np.int64)
        return _SpokenWords(
            units, units_before + first, units_before + words[:, 2], words[:, 1] < first, again, nothing
        )
    merged = merge([sample.streams for sample in samples if sample.streams is not None], vocabulary, rates)
    assert len(merged.lengths) == len(samples), "a sample has no pitch and style"
    parts: list[tuple[NDArray[Any], ...]] = []
    for sample, start, length in zip(samples, _before(merged.lengths).tolist(), merged.lengths.tolist(), strict=True):
        assert sample.cuts is not None and sample.streams is not None
        time_s = merged.time_s[start : start + length]
        cuts_s = sample.cuts / rates.units_hz
        first = np.searchsorted(time_s, cuts_s)
        begins = np.cumsum(sample.streams.durations, dtype=np.int64) - sample.streams.durations
        is_cut = begins[sample.words[:, 1]] < sample.cuts
        num_at_cut = np.searchsorted(time_s, cuts_s, side="right") - first
        parts.append((start + first, start + np.append(first[1:], length), is_cut, num_at_cut))
    first, end, is_divided, num_at_cut = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _SpokenWords(merged.ids, first, end, is_divided, again, num_at_cut)


def _speech(
    samples: Sequence[AlignedSample], vocabulary: Vocabulary, rates: StreamRates | None
) -> list[NDArray[np.int64]]:
    """The tokens of each sample's speech."""
    if rates is None:
        return [vocabulary.encode(sample.units) for sample in samples]
    merged = merge([sample.streams for sample in samples if sample.streams is not None], vocabulary, rates)
    assert len(merged.lengths) == len(samples), "a sample has no pitch and style"
    return np.split(merged.ids, np.cumsum(merged.lengths)[:-1]) if samples else []


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
