"""Log-likelihoods of sequences of units under a speech LM, unit by unit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.lm.controls import GrowingSequence, controlled
from model.lm.generate import drawn_ids, only, probabilities
from model.lm.speech_lm import document_logits, next_unit_nll
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from model.lm.sampling_config import SamplingConfig
    from model.lm.scoring_config import ScoringConfig
    from model.lm.vocab import Vocabulary

# Tokens of a forward pass: enough to keep a GPU busy, few enough for the logits of 500 units to stay small.
TOKENS_AT_ONCE = 4096


def log_likelihoods(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    sequences: Sequence[NDArray[np.uint16]],
    sampling: SamplingConfig | None = None,
) -> list[NDArray[np.float64]]:
    """The log-probability of each unit given those before it, in nats: n - 1 values for a sequence of n units.

    As in the paper, the first unit is not scored. Scores do not depend on the other sequences, except for rounding.

    Args:
        model: The speech LM, in evaluation mode.
        vocabulary: The model's.
        sequences: Of two or more units each.
        sampling: Score by the probabilities with which generation draws by these settings (minus infinity for what it
            never draws), not by the model's own. Limits of length do not matter.

    Raises:
        TwistError: a sequence has fewer than two units, more than the model has positions for, or a unit that is not in
            the codebook.
    """
    for number, units in enumerate(sequences):
        if len(units) < 2:
            raise TwistError(f"sequence {number} has {len(units)} units; two are needed to score one")
        most = max_units(model, vocabulary)
        if len(units) > most:
            raise TwistError(f"sequence {number} has {len(units)} units, but the model takes {most}; score it in parts")
    token_ids = [_token_ids(vocabulary, units) for units in sequences]
    scores = (
        token_scores(model, token_ids)
        if sampling is None
        else [_drawn(model, ids, sampling, drawn_ids(vocabulary)) for ids in token_ids]
    )
    # The first unit is not scored, although ids may stand before it.
    return [nats[len(vocabulary.start_ids) :] for nats in scores]


def sequence_scores(
    model: PreTrainedModel, vocabulary: Vocabulary, sequences: Sequence[NDArray[np.uint16]], scoring: ScoringConfig
) -> list[NDArray[np.float64]]:
    """As `log_likelihoods`, but of all that `scoring` says: perhaps of the first unit and of the end, too.

    Raises:
        TwistError: the model has no id for what `scoring` asks for; and as `log_likelihoods`.
    """
    vocabulary, has_end = scored_as(vocabulary, scoring)
    scores = token_scores(model, [_token_ids(vocabulary, units, has_end=has_end) for units in sequences])
    num_given = max(1, len(vocabulary.start_ids))
    return [nats[num_given - 1 :] for nats in scores]


def scored_as(vocabulary: Vocabulary, scoring: ScoringConfig) -> tuple[Vocabulary, bool]:
    """The vocabulary by which sequences are written for scoring, and whether their end is scored.

    Raises:
        TwistError: the model was trained without what is asked for.
    """
    if vocabulary.bos_id is None and (scoring.bos or scoring.eos):
        raise TwistError(
            "this model was trained without an id for the start and end of a sequence: leave scoring.bos and "
            "scoring.eos out"
        )
    has_end = bool(vocabulary.end_ids) if scoring.eos is None else scoring.eos
    if has_end and scoring.bos is False:
        raise TwistError("scoring.eos without scoring.bos: the end of a sequence is told by the id of its start")
    return (replace(vocabulary, bos_id=None) if scoring.bos is False else vocabulary), has_end


def max_units(model: PreTrainedModel, vocabulary: Vocabulary, *, has_end: bool = False) -> float:
    """The most units that a sequence may have; infinite if the model knows no limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return math.inf if positions is None else positions - len(vocabulary.start_ids) - has_end


def _token_ids(vocabulary: Vocabulary, units: NDArray[np.uint16], *, has_end: bool = False) -> NDArray[np.int64]:
    start = np.array(vocabulary.start_ids, np.int64)
    end = np.array([vocabulary.bos_id] if has_end else [], np.int64)
    return np.concatenate([start, vocabulary.encode(units), end])


@torch.inference_mode()
def token_scores(model: PreTrainedModel, token_ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
    """The log-probability of each token but the first, [n - 1], of each sequence; packed, without pads."""
    scores: list[NDArray[np.float64]] = [np.zeros(0)] * len(token_ids)
    for batch in _batches([len(ids) for ids in token_ids]):
        flat = torch.from_numpy(np.concatenate([token_ids[index] for index in batch]))
        nll = next_unit_nll(model, flat, [len(token_ids[index]) for index in batch]).double().cpu().numpy()
        for row, index in zip(nll, batch, strict=True):
            scores[index] = -row[: len(token_ids[index]) - 1]
    return scores


@torch.inference_mode()
def _drawn(
    model: PreTrainedModel,
    token_ids: NDArray[np.int64],
    sampling: SamplingConfig,
    allowed_ids: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """The log-probability with which each token but the first is drawn, [n - 1], of one sequence."""
    logits = only(document_logits(model, torch.from_numpy(token_ids), [len(token_ids)]).double(), allowed_ids)
    first, *others = token_ids.tolist()
    sequence = GrowingSequence([first], max_ids=len(token_ids), no_repeat_ngram=sampling.no_repeat_ngram)
    scores = []
    for place, token_id in enumerate(others):
        of_next = controlled(logits[place : place + 1], [sequence], sampling.repetition_penalty)
        scores.append(probabilities(of_next, sampling)[0, token_id].log().item())
        sequence.append(token_id)
    return np.array(scores)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of sequences of like length, about TOKENS_AT_ONCE tokens together."""
    batch: list[int] = []
    num_tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and num_tokens + lengths[index] > TOKENS_AT_ONCE:
            yield batch
            batch, num_tokens = [], 0
        batch.append(index)
        num_tokens += lengths[index]
    if batch:
        yield batch
