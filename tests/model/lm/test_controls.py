"""What a continuation may not say and when it ends: as transformers' processors have it, and batched as alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from model.lm.controls import GrowingSequence, Lengths, controlled
from model.lm.generate import continue_units
from model.lm.sampling_config import SamplingConfig
from model.lm.scoring import log_likelihoods
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from tests.model.lm.test_generate import VOCABULARY, prompts, speech_lm

END = 1
ENDS = frozenset({END})
WITH_END = Vocabulary(20, offset=2, bos_id=END)


def rows(num_rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Rows of few kinds of tokens, so that n-grams come again."""
    return torch.randint(0, 6, (num_rows, length), generator=torch.Generator().manual_seed(seed))


def logits_for(ids: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(ids), 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("penalty", [0.7, 1.1, 3.0])
def test_the_penalty_is_that_of_transformers(penalty: float) -> None:
    ids = rows(5, 7)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits_for(ids))
    sequences = [GrowingSequence(row.tolist(), max_ids=99) for row in ids]
    torch.testing.assert_close(controlled(logits_for(ids), sequences, penalty), theirs)


@pytest.mark.parametrize("order", [1, 2, 3, 8])
def test_banned_ngrams_are_those_of_transformers(order: int) -> None:
    ids = rows(6, 40)
    sequences = [GrowingSequence(row[:3].tolist(), max_ids=99, no_repeat_ngram=order) for row in ids]
    for length in range(3, 40):
        theirs = NoRepeatNGramLogitsProcessor(order)(ids[:, :length], logits_for(ids))
        torch.testing.assert_close(controlled(logits_for(ids), sequences, 1.0), theirs)
        for sequence, row in zip(sequences, ids, strict=True):
            sequence.append(int(row[length]))


def test_no_sequence_ends_before_its_least_length_as_in_transformers() -> None:
    ids = rows(4, 10)
    for min_new in (0, 1, 4, 5, 6):
        theirs = MinNewTokensLengthLogitsProcessor(6, min_new, END, device="cpu")(ids, logits_for(ids))
        sequences = [GrowingSequence(row[:6].tolist(), min_ids=6 + min_new, max_ids=99, end_ids=ENDS) for row in ids]
        for sequence, row in zip(sequences, ids, strict=True):
            for token_id in row[6:].tolist():
                sequence.append(token_id)
        torch.testing.assert_close(controlled(logits_for(ids), sequences, 1.0), theirs)


def test_what_ends_a_sequence_is_not_penalized_and_never_is_everything_banned() -> None:
    ends = GrowingSequence([END, 2, 3], max_ids=9, end_ids=ENDS)
    logits = torch.full((1, 4), 2.0)
    assert controlled(logits, [ends], 2.0).tolist() == [[2.0, 2.0, 1.0, 1.0]]
    full = GrowingSequence([0, 1, 2, 3], max_ids=9, no_repeat_ngram=1)
    torch.testing.assert_close(controlled(logits, [full], 1.0), logits)


def test_a_pause_ends_what_has_its_least_length() -> None:
    sequence = GrowingSequence([7], min_ids=4, max_ids=8, pause_ids=frozenset({7}))
    ended = []
    for token_id in (7, 2, 3, 7):
        sequence.append(token_id)
        ended.append(sequence.is_finished)
    assert ended == [False, False, False, True]
    assert not GrowingSequence([7], max_ids=8, pause_ids=frozenset({7})).is_finished, "a pause of the prompt"


def test_seconds_are_counted_at_the_pace_of_the_prompt() -> None:
    assert Lengths(None, None).in_tokens(0.08) == (0, None)
    assert Lengths(0.5, 1.0).in_tokens(0.08) == (7, 12)
    assert Lengths(None, 0.01).in_tokens(0.08) == (0, 1), "a continuation has one unit at least"


CONTROLS: dict[str, dict[str, Any]] = {
    "penalty": {"repetition_penalty": 1.5},
    "ngram": {"no_repeat_ngram": 2},
    "seconds": {"min_s": 0.4, "max_s": 1.0},
    "pause": {"pause_units": (3, 4, 5), "min_s": 0.2},
    "ranked": {"ranked": True},
}


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("vocabulary", [VOCABULARY, WITH_END], ids=["units", "with end"])
def test_batched_equals_alone(name: str, vocabulary: Vocabulary) -> None:
    model = speech_lm("llama", **vocabulary.as_config())
    config = SamplingConfig(temperature=1.5, **CONTROLS[name])
    given, paces_s = prompts(5, 17, 2, 9, 30), [0.04, 0.08, 0.06, 0.1, 0.05]
    together = continue_units(model, vocabulary, given, config, 3, seconds_per_unit=paces_s)
    for prompt, pace_s, continuations in zip(given, paces_s, together, strict=True):
        (alone,) = continue_units(model, vocabulary, [prompt], config, 3, batch_size=1, seconds_per_unit=[pace_s])
        for one, other in zip(alone, continuations, strict=True):
            np.testing.assert_array_equal(one, other)
    free = continue_units(model, vocabulary, given, SamplingConfig(temperature=1.5), 3)
    assert any(
        not np.array_equal(one, other)
        for ours, theirs in zip(together, free, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    ), "the control changes nothing here"


def test_no_ngram_comes_twice_and_lengths_are_kept() -> None:
    model, (prompt,) = speech_lm("llama"), prompts(12)
    config = SamplingConfig(max_units=120, max_times_prompt=10, no_repeat_ngram=2, min_s=1.0, max_s=2.0)
    for units in continue_units(model, VOCABULARY, [prompt], config, 5, seconds_per_unit=[0.04])[0]:
        whole = [*prompt.tolist(), *units.tolist()]
        new = list(itertools.pairwise(whole))[len(prompt) - 1 :]
        assert len(set(new)) == len(new) and not set(new) & set(itertools.pairwise(prompt.tolist()))
        assert len(units) <= 50, "2 s of units that last 40 ms"


def test_ranked_continuations_are_the_same_likeliest_first() -> None:
    model, (prompt,) = speech_lm("llama"), prompts(10)
    drawn = continue_units(model, VOCABULARY, [prompt], SamplingConfig(temperature=1.2), 6)[0]
    ranked = continue_units(model, VOCABULARY, [prompt], SamplingConfig(temperature=1.2, ranked=True), 6)[0]
    assert sorted(units.tolist() for units in drawn) == sorted(units.tolist() for units in ranked)
    whole = [units for units in ranked if len(units) == 20]
    assert len(whole) > 2, "ids that are no units are left out, so that what they add is not seen here"
    nats = log_likelihoods(model, VOCABULARY, [np.concatenate([prompt, units]) for units in whole])
    means = [of_one[len(prompt) - 1 :].mean() for of_one in nats]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("controls", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram": 2, "top_k": 6}])
def test_scores_by_settings_are_how_often_units_are_drawn(controls: dict[str, Any]) -> None:
    model, (prompt,) = speech_lm(vocab_size=21), prompts(3)
    sampling = SamplingConfig(max_units=5, top_k=controls.pop("top_k", 4), **controls)
    drawn = continue_units(model, VOCABULARY, [prompt], sampling, 3000, batch_size=1000)[0]
    told, counts = np.unique([units for units in drawn if len(units) == 2], axis=0, return_counts=True)
    scores = log_likelihoods(model, VOCABULARY, [np.concatenate([prompt, units]) for units in told], sampling)
    shares = np.array([np.exp(of_one[len(prompt) - 1 :].sum()) for of_one in scores])
    np.testing.assert_allclose(counts / 3000, shares, atol=0.03)


def test_without_settings_scores_are_the_models_own() -> None:
    model, sequences = speech_lm(), prompts(12, 5)
    neutral = SamplingConfig(temperature=1.0, top_k=None)
    for own, drawn in zip(
        log_likelihoods(model, VOCABULARY, sequences),
        log_likelihoods(model, VOCABULARY, sequences, neutral),
        strict=True,
    ):
        np.testing.assert_allclose(own, drawn, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 0}, {"no_repeat_ngram": 0}, {"min_s": -1}, {"max_s": 1, "min_s": 2}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match=f"{next(iter(settings))} is"):
        SamplingConfig(**settings)
