"""Which words of a sample are text and which are speech: drawn anew each time that the sample comes.

A draw depends on the seed and on the place in the stream of samples alone, so that it is the same at any number of
processes and after a resumption.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.lm.mixture.config import SpanConfig

# Draws in a row that find no room for a span of speech, after which there is taken to be none.
MOST_FAILURES = 64


def draw_speech(
    num_words: NDArray[np.integer], places: NDArray[np.int64], seed: int, config: SpanConfig
) -> NDArray[np.bool_]:
    """Which words are speech.

    Args:
        num_words: [S] words of each sample.
        places: [S] the place of each sample in the stream.
        seed: The training's.
        config: The rule.

    Returns:
        [W] for the words of the samples, one sample after the other; W is the sum of `num_words`.
    """
    assert (num_words >= 1).all(), "a sample without words has nothing to divide"
    streams = _streams(seed, places)
    counts = num_words.astype(np.int64)
    if config.rule == "alternate":
        return _alternate(counts, streams, config)
    if config.rule == "poisson":
        drawn = [_poisson(n, stream, config) for n, stream in zip(counts.tolist(), streams, strict=True)]
        return np.concatenate(drawn) if drawn else np.zeros(0, np.bool_)
    firsts = np.cumsum(counts) - counts
    sample = np.repeat(np.arange(len(counts)), counts)
    word = np.arange(len(sample)) - firsts[sample]
    begins: NDArray[np.bool_] = _uniforms(streams[sample], word) < config.probability
    if config.rule == "random":
        return begins
    # The last word so far, in the same sample, at which a span of speech begins.
    last = np.maximum.accumulate(np.where(begins, np.arange(len(word)), -1))
    is_speech: NDArray[np.bool_] = (last >= firsts[sample]) & (np.arange(len(word)) - last < config.span_words)
    return is_speech


def span_starts(is_speech: NDArray[np.bool_], num_words: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which words begin a span [W]: the first of each sample, and those of another kind than the word before."""
    starts = np.ones(len(is_speech), np.bool_)
    starts[1:] = is_speech[1:] != is_speech[:-1]
    firsts = np.cumsum(num_words, dtype=np.int64) - num_words
    starts[firsts] = True
    return starts


def _alternate(num_words: NDArray[np.int64], streams: NDArray[np.uint64], config: SpanConfig) -> NDArray[np.bool_]:
    shortest, longest = np.array([config.text_words, config.speech_words]).T
    num_spans = int(-(-num_words.max(initial=1) // shortest.min()))
    shares = _uniforms(streams[:, None], np.arange(num_spans + 2))
    speech_first = shares[:, 0] < 0.5
    kinds = (speech_first[:, None] + np.arange(num_spans)) % 2
    lengths = shortest[kinds] + (shares[:, 2:] * (longest - shortest + 1)[kinds]).astype(np.int64)
    # Where the first span would be all of a sample, it is a part of it.
    is_all = (lengths[:, 0] >= num_words) & (num_words > 1)
    lengths[:, 0] = np.where(is_all, 1 + (shares[:, 1] * (num_words - 1)).astype(np.int64), lengths[:, 0])
    ends = np.cumsum(lengths, axis=1)
    firsts = np.cumsum(num_words) - num_words
    changes = np.zeros(int(num_words.sum()), np.int64)
    changes[(firsts[:, None] + ends)[ends < num_words[:, None]]] = 1
    # Changes since the sample began.
    before = np.cumsum(changes) - changes
    counted = np.cumsum(changes) - np.repeat(before[firsts], num_words)
    is_speech: NDArray[np.bool_] = (np.repeat(speech_first, num_words) + counted) % 2 == 1
    return is_speech


def _poisson(num_words: int, stream: np.uint64, config: SpanConfig) -> NDArray[np.bool_]:
    is_speech = np.zeros(num_words, np.bool_)
    may_begin = np.ones(num_words, np.bool_)
    wanted = math.ceil(config.speech_share * num_words)
    cumulative = _poisson_shares(config.span_words)
    failures = draw = 0
    while is_speech.sum() < wanted and failures < MOST_FAILURES and (free := np.flatnonzero(may_begin)).size:
        place, length_share = _uniforms(np.array(stream), np.array([draw, draw + 1]))
        draw += 2
        start = int(free[int(place * free.size)])
        end = min(start + max(1, int(np.searchsorted(cumulative, length_share))), num_words)
        if is_speech[start:end].any():
            failures += 1
            continue
        failures = 0
        is_speech[start:end] = True
        may_begin[start : end + 1] = False  # nor right behind it
    return is_speech


def _poisson_shares(mean: int) -> NDArray[np.float64]:
    """The share of spans of up to so many words, from 0 on."""
    lengths = range(4 * mean + 20)
    return np.cumsum([math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in lengths])


def _streams(seed: int, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A stream of random numbers for each place [S]."""
    return _scrambled(places.astype(np.uint64) + _scrambled(np.array(seed % 2**64, np.uint64)))


def _uniforms(streams: NDArray[np.uint64], numbers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Number `numbers` of each stream, from 0 to below 1; the two are broadcast.

    This is SplitMix64 (Steele et al. 2014), any number of which can be had at once. numpy's own generators need one
    object a sample, and draw other numbers in other versions.
    """
    with np.errstate(over="ignore"):
        bits = _scrambled(streams + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)) * np.float64(2.0**-53)


def _scrambled(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
    return scrambled
