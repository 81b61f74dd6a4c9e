"""Log-likelihoods of sequences of units under a speech LM, unit by unit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.lm.controls import GrowingSequence, controlled
from model.lm.document_attention import has_flash_kernel
from model.lm.generate import drawn_ids, only, probabilities
from model.lm.shared_prefixes import shared_rows
from model.lm.speech_lm import document_logits
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from model.lm.sampling_config import SamplingConfig
    from model.lm.scoring_config import ScoringConfig
    from model.lm.shared_prefixes import SharedRow
    from model.lm.vocab import Vocabulary

# Tokens of a forward pass: enough to keep a GPU busy. Few enough for the logits to stay small, of a model of text too.
TOKENS_AT_ONCE = 4096
LOGITS_AT_ONCE = 2**25


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
    model: PreTrainedModel, vocabulary: Vocabulary, sequences: Sequence[NDArray[np.int64]], scoring: ScoringConfig
) -> list[NDArray[np.float64]]:
    """As `log_likelihoods`, but of all that `scoring` says: perhaps of the first token and of the end, too.

    Args:
        model: The speech LM, in evaluation mode.
        vocabulary: The model's.
        sequences: Ids of units, or of units, pitch and style merged by time, for an expressive model.
        scoring: What is scored.

    Raises:
        TwistError: the model has no id for what `scoring` asks for.
    """
    vocabulary, has_end = scored_as(vocabulary, scoring)
    start = np.array(vocabulary.start_ids, np.int64)
    end = np.array([vocabulary.bos_id] if has_end else [], np.int64)
    scores = token_scores(model, [np.concatenate([start, ids, end]) for ids in sequences])
    num_given = max(1, len(start))
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


def _token_ids(vocabulary: Vocabulary, units: NDArray[np.uint16]) -> NDArray[np.int64]:
    return np.concatenate([np.array(vocabulary.start_ids, np.int64), vocabulary.encode(units)])


@torch.inference_mode()
def token_scores(model: PreTrainedModel, token_ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
    """The log-probability of each token but the first, [n - 1], of each sequence of one or more.

    Sequences are packed without pads, and what several begin with is computed once; equal ones have equal scores.
    """
    scores: list[NDArray[np.float64]] = [np.zeros(0)] * len(token_ids)
    weight = next(model.parameters())
    share = not has_flash_kernel(weight.device, weight.dtype)
    num_ids = getattr(model.config, "vocab_size", 1)
    for row in shared_rows(token_ids, max(1, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // num_ids)), share=share):
        sequences = [token_ids[member] for member in row.members]
        for member, nats in zip(row.members, _row_scores(model, row, sequences), strict=True):
            scores[member] = nats
    return scores


def _row_scores(
    model: PreTrainedModel, row: SharedRow, sequences: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    prefixes = [None if prefix is None else torch.from_numpy(prefix) for prefix in row.prefixes]
    logits = document_logits(
        model,
        torch.from_numpy(np.concatenate(row.documents)),
        [len(document) for document in row.documents],
        None if all(prefix is None for prefix in prefixes) else prefixes,
    )
    before = torch.from_numpy(np.concatenate([places[:-1] for places in row.positions])).to(logits.device)
    targets = torch.from_numpy(np.concatenate([ids[1:] for ids in sequences])).to(logits.device)
    of_all = logits.float().logsumexp(dim=-1)
    nats = (logits[before, targets].double() - of_all[before].double()).cpu().numpy()
    return np.split(nats, np.cumsum([len(ids) - 1 for ids in sequences])[:-1])


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
