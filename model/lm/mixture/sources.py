"""Where the sequences of each kind come from: samples of units, documents of text, samples with words."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from model.lm.loader import MicroBatch, weights_of_samples
from model.lm.mixture.config import INTERLEAVED, SPEECH, TEXT
from model.lm.mixture.sequences import (
    interleaved_sequences,
    pair_sequences,
    speech_sequences,
    stream_sequences,
    text_sequences,
)
from model.lm.mixture.spans import draw_speech, span_starts
from model.lm.samples import StreamSamples
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.lm.mixture.config import SpanConfig
    from model.lm.samples import AlignedSamples, TextSamples, UnitSamples
    from model.lm.vocab import Vocabulary

# Samples whose spans are drawn to estimate how long interleaved ones become.
SAMPLES_DRAWN = 2**14
# Before the units or tokens of a sequence of one kind, and between those of a pair.
PREFIX = 1


class Source(Protocol):
    """The sequences of one kind.

    Attributes:
        kind: Which.
        max_tokens: The longest sequence.
        blocks: [N] the block of the shards that each sample lies in, ascending.
        weights: [N] how often an epoch has each sample; None where that is once.
        lengths: [N] tokens of each sequence; of interleaved ones what they have at most.
        mean_tokens: Tokens of a sequence, on average; of interleaved ones an estimate.
    """

    kind: str
    max_tokens: int
    blocks: NDArray[np.int32]
    weights: NDArray[np.float64] | None
    lengths: NDArray[np.int64]
    mean_tokens: float

    def sequences(self, samples: NDArray[np.int64], places: NDArray[np.int64], seed: int) -> tuple[MicroBatch, int]:
        """The sequences of some samples, which stand at these places of the kind's stream, and how many are left out.

        Raises:
            TwistError: one is damaged, and such are not to be left out.
        """

    def prefetch(self, samples: NDArray[np.int64]) -> None:
        """Lets samples be read ahead."""

    def key(self, sample: int) -> str:
        """A sample's key in its shards."""

    def identity(self) -> dict[str, Any]:
        """What the order of the sequences, and what they are, depends on."""


class SpeechSource:
    """Samples of units."""

    kind = SPEECH

    def __init__(self, samples: UnitSamples, vocabulary: Vocabulary) -> None:
        self._samples = samples
        self._vocabulary = vocabulary
        self.max_tokens = PREFIX + samples.max_units
        self.blocks = samples.blocks
        self.weights = weights_of_samples(samples)
        self.lengths = PREFIX + samples.num_units.astype(np.int64)
        self.mean_tokens = float(self.lengths.mean())

    def sequences(self, samples: NDArray[np.int64], places: NDArray[np.int64], seed: int) -> tuple[MicroBatch, int]:
        try:
            return self._sequences(samples)
        except TwistError:  # some unit is out of range: find its shard
            return self._sequences(samples, below=self._vocabulary.codebook_size)

    def _sequences(self, samples: NDArray[np.int64], below: int | None = None) -> tuple[MicroBatch, int]:
        found = [units for units in self._samples.read(samples, below=below) if units is not None]
        return speech_sequences(found, self._vocabulary), len(samples) - len(found)

    def prefetch(self, samples: NDArray[np.int64]) -> None:
        self._samples.prefetch(np.unique(self.blocks[samples]))

    def key(self, sample: int) -> str:
        return self._samples.key(sample)

    def identity(self) -> dict[str, Any]:
        return _identity(self._samples, self.max_tokens)


class StreamSource:
    """Samples of units, pitch and style as one stream."""

    kind = SPEECH

    def __init__(self, samples: StreamSamples, vocabulary: Vocabulary, max_tokens: int) -> None:
        self._samples = samples
        self._vocabulary = vocabulary
        self.max_tokens = max_tokens
        self.blocks = samples.blocks
        self.weights = weights_of_samples(samples)
        self.lengths = PREFIX + samples.num_speech.astype(np.int64)
        self.mean_tokens = float(self.lengths.mean())

    def sequences(self, samples: NDArray[np.int64], places: NDArray[np.int64], seed: int) -> tuple[MicroBatch, int]:
        found = self._samples.read(samples)
        is_there = np.array([sample is not None for sample in found], np.bool_)
        first, end = self._samples.of_pieces(samples[is_there])
        whole = [sample for sample in found if sample is not None]
        sequences = stream_sequences(whole, (first, end), self._vocabulary, self._samples.rates)
        return sequences, len(found) - len(whole)

    def prefetch(self, samples: NDArray[np.int64]) -> None:
        self._samples.prefetch(np.unique(self.blocks[samples]))

    def key(self, sample: int) -> str:
        return self._samples.key(sample)

    def identity(self) -> dict[str, Any]:
        return _identity(self._samples, self.max_tokens)


class TextSource:
    """Documents of text."""

    kind = TEXT

    def __init__(self, samples: TextSamples, vocabulary: Vocabulary) -> None:
        self._samples = samples
        self._vocabulary = vocabulary
        self.max_tokens = PREFIX + samples.max_tokens
        self.blocks = samples.blocks
        self.weights = weights_of_samples(samples)
        self.lengths = PREFIX + samples.num_tokens.astype(np.int64)
        self.mean_tokens = float(self.lengths.mean())

    def sequences(self, samples: NDArray[np.int64], places: NDArray[np.int64], seed: int) -> tuple[MicroBatch, int]:
        # Tokens, unlike units, need not be looked for by shard: another tokenizer has been refused.
        found = [tokens for tokens in self._samples.read(samples) if tokens is not None]
        return text_sequences(found, self._vocabulary), len(samples) - len(found)

    def prefetch(self, samples: NDArray[np.int64]) -> None:
        self._samples.prefetch(np.unique(self.blocks[samples]))

    def key(self, sample: int) -> str:
        return self._samples.key(sample)

    def identity(self) -> dict[str, Any]:
        return _identity(self._samples, self.max_tokens)


class AlignedSource:
    """Samples with words: interleaved, or as pairs of speech and text.

    Interleaved samples have at least two words. A pair that is longer than `max_tokens` is left out. Speech is units,
    and of StreamSamples the stream of units, pitch and style.

    Raises:
        TwistError: none is left.
    """

    def __init__(
        self,
        kind: str,
        samples: AlignedSamples | StreamSamples,
        vocabulary: Vocabulary,
        max_tokens: int,
        spans: SpanConfig,
    ) -> None:
        self.kind = kind
        self.max_tokens = max_tokens
        self._samples = samples
        self._vocabulary = vocabulary
        self._spans = spans
        self._rates = samples.rates if isinstance(samples, StreamSamples) else None
        num_speech, num_tokens = samples.num_speech.astype(np.int64), samples.num_text_tokens.astype(np.int64)
        is_used = samples.num_words >= 2 if kind == INTERLEAVED else 2 * PREFIX + num_speech + num_tokens <= max_tokens
        self._used = np.flatnonzero(is_used)
        if not len(self._used):
            wanted = "two words" if kind == INTERLEAVED else f"speech and text that fit into {max_tokens} tokens"
            raise TwistError(
                f"{samples.dataset.uri} has no sample with {wanted} in its {samples.split} split, as "
                f"train.mixture.{kind} needs"
            )
        self.blocks = samples.blocks[self._used]
        weights = weights_of_samples(samples)
        self.weights = None if weights is None else weights[self._used]
        self._num_words = samples.num_words[self._used]
        self.lengths = 2 * PREFIX + num_speech[self._used] + num_tokens[self._used]
        self.mean_tokens = (
            self._mean_interleaved(num_speech[self._used], num_tokens[self._used])
            if kind == INTERLEAVED
            else float(self.lengths.mean())
        )

    def sequences(self, samples: NDArray[np.int64], places: NDArray[np.int64], seed: int) -> tuple[MicroBatch, int]:
        found = self._samples.read(self._used[samples])
        is_there = np.array([sample is not None for sample in found])
        whole = [sample for sample in found if sample is not None]
        if self.kind == INTERLEAVED:
            is_speech = draw_speech(self._num_words[samples[is_there]], places[is_there], seed, self._spans)
            sequences = interleaved_sequences(whole, is_speech, self._vocabulary, self.max_tokens, self._rates)
        else:
            sequences = pair_sequences(whole, self._vocabulary, self.kind, self._rates)
        return sequences, len(found) - len(whole)

    def prefetch(self, samples: NDArray[np.int64]) -> None:
        self._samples.prefetch(np.unique(self.blocks[samples]))

    def key(self, sample: int) -> str:
        return self._samples.key(int(self._used[sample]))

    def identity(self) -> dict[str, Any]:
        spans = {"spans": asdict(self._spans)} if self.kind == INTERLEAVED else {}
        return {**_identity(self._samples, self.max_tokens), "num_samples": len(self._used), **spans}

    def _mean_interleaved(self, num_speech: NDArray[np.int64], num_tokens: NDArray[np.int64]) -> float:
        """Tokens of an interleaved sequence, on average, if all words of a sample were alike in length."""
        chosen = np.unique(np.linspace(0, len(self._used) - 1, SAMPLES_DRAWN).astype(np.int64))
        num_words = self._num_words[chosen].astype(np.int64)
        is_speech = draw_speech(num_words, chosen, 0, self._spans)
        firsts = np.cumsum(num_words) - num_words
        share = np.add.reduceat(is_speech, firsts, dtype=np.int64) / num_words
        num_spans = np.add.reduceat(span_starts(is_speech, num_words), firsts, dtype=np.int64)
        return float(np.mean(num_speech[chosen] * share + num_tokens[chosen] * (1 - share) + num_spans))


def _identity(samples: UnitSamples | StreamSamples | TextSamples | AlignedSamples, max_tokens: int) -> dict[str, Any]:
    return {
        "data": samples.dataset.fingerprint,
        "num_samples": len(samples),
        "max_tokens": max_tokens,
        "share": samples.data.share,
        "corpus_weights": dict(sorted(samples.data.corpus_weights.items())),
    }
