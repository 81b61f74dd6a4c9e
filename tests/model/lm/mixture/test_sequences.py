"""Sequences and their inverse: text and units come back whole, and a switch stands between words alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from model.lm.mixture.config import SPEECH_TEXT, TEXT_SPEECH, SpanConfig
from model.lm.mixture.sequences import interleaved_sequences, pair_sequences, speech_sequences, text_sequences
from model.lm.mixture.spans import draw_speech
from model.lm.samples import AlignedSample
from pipeline.errors import TwistError
from tests.model.lm.mixture.aligned import TEXT_SIZE, VOCABULARY, draw_aligned

if TYPE_CHECKING:
    from model.lm.loader import MicroBatch

TEXT, SPEECH = VOCABULARY.text_id, VOCABULARY.speech_id
SHORT = SpanConfig(text_words=(1, 4), speech_words=(1, 3))


def sequences_of(batch: MicroBatch) -> list[list[int]]:
    ends = np.cumsum(batch.lengths)
    assert not len(ends) or ends[-1] == len(batch.token_ids)
    return [batch.token_ids[end - n : end].tolist() for end, n in zip(ends, batch.lengths, strict=True)]


def parsed(sequence: list[int]) -> list[tuple[bool, list[int]]]:
    """(whether it is speech, its units or tokens) of each span."""
    assert sequence[0] in (TEXT, SPEECH), "a sequence begins with what it is"
    found: list[tuple[bool, list[int]]] = []
    for token_id in sequence:
        if token_id in (TEXT, SPEECH):
            found.append((token_id == SPEECH, []))
        else:
            is_speech, span = found[-1]
            assert is_speech == (token_id >= VOCABULARY.offset), "no id of the other kind in a span"
            span.append(token_id - VOCABULARY.offset if is_speech else token_id)
    assert all(span for _, span in found), "a span is never empty"
    return found


def test_an_interleaved_sample_by_hand() -> None:
    sample = AlignedSample(
        np.array([7, 3, 9, 4], np.uint16),
        np.array([11, 12, 13, 14], np.uint32),
        # the cut before the third word divides unit 9
        np.array([[1, 0, 1], [2, 1, 3], [1, 2, 4]], np.uint32),
    )
    is_speech = np.array([True, True, False, False, True, False, True, False, True, False, False, True])
    batch = interleaved_sequences([sample] * 4, is_speech, VOCABULARY, 100)
    assert [parsed(sequence) for sequence in sequences_of(batch)] == [
        [(True, [7, 3, 9]), (False, [14])],
        [(False, [11]), (True, [3, 9]), (False, [14])],
        [(True, [7]), (False, [12, 13]), (True, [9, 4])],
        [(False, [11, 12, 13]), (True, [9, 4])],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_spans_hold_their_words_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [draw_aligned(rng, int(n)) for n in rng.integers(1, 40, 9)]
    num_words = np.array([len(sample.words) for sample in samples])
    is_speech = draw_speech(num_words, np.arange(9), seed, SHORT)
    found = sequences_of(interleaved_sequences(samples, is_speech, VOCABULARY, 10_000))
    assert len(found) == len(samples)
    for sample, sequence, speech in zip(samples, found, np.split(is_speech, np.cumsum(num_words)[:-1]), strict=True):
        tokens_before = [0, *np.cumsum(sample.words[:, 0]).tolist()]
        word = 0
        for is_speech_span, content in parsed(sequence):
            end = word
            while end < len(speech) and speech[end] == is_speech_span:
                end += 1
            assert end > word, "spans alternate"
            if is_speech_span:
                expected = sample.units[sample.words[word, 1] : sample.words[end - 1, 2]]
            else:
                expected = sample.tokens[tokens_before[word] : tokens_before[end]]
            assert content == expected.tolist()
            word = end
        assert word == len(speech), "no word is lost"


@pytest.mark.parametrize("seed", range(20))
def test_all_as_speech_or_all_as_text_is_the_sample(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [draw_aligned(rng, int(n)) for n in rng.integers(1, 40, 5)]
    num_words = sum(len(sample.words) for sample in samples)
    speech = interleaved_sequences(samples, np.ones(num_words, np.bool_), VOCABULARY, 10_000)
    assert speech.token_ids.equal(speech_sequences([sample.units for sample in samples], VOCABULARY).token_ids)
    text = interleaved_sequences(samples, np.zeros(num_words, np.bool_), VOCABULARY, 10_000)
    assert text.token_ids.equal(text_sequences([sample.tokens for sample in samples], VOCABULARY).token_ids)


@pytest.mark.parametrize("seed", range(20))
def test_both_halves_of_any_division_make_up_the_sample(seed: int) -> None:
    """With each word once as text and once as speech, the text and, but for repeats at cuts, the units are whole."""
    rng = np.random.default_rng(seed)
    sample = draw_aligned(rng, 30)
    is_speech = draw_speech(np.array([30]), np.array([seed]), 0, SHORT)
    (one,), (other,) = (
        sequences_of(interleaved_sequences([sample], words, VOCABULARY, 10_000)) for words in (is_speech, ~is_speech)
    )
    tokens: list[int] = []
    units: list[int] = []
    for (is_first, first), (_, second) in zip(parsed(one), parsed(other), strict=True):
        speech, text = (first, second) if is_first else (second, first)
        tokens += text
        units += speech[1:] if units and units[-1] == speech[0] else speech
    assert tokens == sample.tokens.tolist()
    assert units == sample.units.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_batched_is_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [draw_aligned(rng, int(n)) for n in rng.integers(1, 40, 7)]
    num_words = np.array([len(sample.words) for sample in samples])
    is_speech = draw_speech(num_words, np.arange(7), 0, SHORT)
    together = sequences_of(interleaved_sequences(samples, is_speech, VOCABULARY, 25))
    alone = [
        sequence
        for sample, words in zip(samples, np.split(is_speech, np.cumsum(num_words)[:-1]), strict=True)
        for sequence in sequences_of(interleaved_sequences([sample], words, VOCABULARY, 25))
    ]
    assert together == alone


@pytest.mark.parametrize("seed", range(10))
def test_what_is_longer_than_a_sequence_goes_on_at_a_word(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = draw_aligned(rng, 60)
    is_speech = draw_speech(np.array([60]), np.array([seed]), 0, SHORT)
    parts = sequences_of(interleaved_sequences([sample], is_speech, VOCABULARY, 20))
    assert len(parts) > 2
    assert max(map(len, parts)) <= 20
    (whole,) = sequences_of(interleaved_sequences([sample], is_speech, VOCABULARY, 10_000))
    spans: list[tuple[bool, list[int]]] = []
    for part in parts:
        for kind, content in parsed(part):
            if spans and spans[-1][0] == kind:
                before = spans[-1][1]
                before += content[1:] if kind and before[-1] == content[0] else content
            else:
                spans.append((kind, list(content)))
    assert spans == parsed(whole), "the parts are the whole"


def test_a_word_that_is_longer_than_a_sequence_is_cut() -> None:
    sample = AlignedSample(
        np.arange(10, dtype=np.uint16), np.array([1, 2], np.uint32), np.array([[1, 0, 1], [1, 1, 10]], np.uint32)
    )
    found = sequences_of(interleaved_sequences([sample], np.array([False, True]), VOCABULARY, 4))
    offset = VOCABULARY.offset
    assert found[0] == [TEXT, 1]
    assert found[1:] == [
        [SPEECH, *range(offset + 1, offset + 4)],
        [*range(offset + 4, offset + 8)],
        [offset + 8, offset + 9],
    ]


def test_pairs() -> None:
    sample = draw_aligned(np.random.default_rng(0), 4)
    (forward,) = sequences_of(pair_sequences([sample], VOCABULARY, SPEECH_TEXT))
    (backward,) = sequences_of(pair_sequences([sample], VOCABULARY, TEXT_SPEECH))
    assert parsed(forward) == [(True, sample.units.tolist()), (False, sample.tokens.tolist())]
    assert parsed(backward) == [(False, sample.tokens.tolist()), (True, sample.units.tolist())]


def test_no_samples() -> None:
    for batch in (
        interleaved_sequences([], np.zeros(0, np.bool_), VOCABULARY, 9),
        pair_sequences([], VOCABULARY, SPEECH_TEXT),
        speech_sequences([], VOCABULARY),
        text_sequences([], VOCABULARY),
    ):
        assert batch.lengths == ()
        assert not len(batch.token_ids)


def test_tokens_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(TwistError, match=f"token {TEXT_SIZE}, which is none of the model's {TEXT_SIZE}"):
        text_sequences([np.array([3, TEXT_SIZE], np.uint32)], VOCABULARY)
