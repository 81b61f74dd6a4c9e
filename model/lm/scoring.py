"""Log-likelihoods of sequences of units under a speech LM, unit by unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.lm.speech_lm import next_unit_nll
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from model.lm.vocab import Vocabulary


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel, vocabulary: Vocabulary, sequences: Sequence[NDArray[np.uint16]], batch_size: int = 16
) -> list[NDArray[np.float64]]:
    """The log-probability of each unit given those before it, in nats: n - 1 values for a sequence of n units.

    As in the paper, the first unit is not scored. Scores do not depend on the other sequences, except for rounding.

    Args:
        model: The speech LM, in evaluation mode.
        vocabulary: The model's.
        sequences: Of two or more units each.
        batch_size: Sequences per forward pass; sequences of similar length share one.

    Raises:
        TwistError: a sequence has fewer than two units, more than the model has positions for, or a unit that is not in
            the codebook.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    most = math.inf if positions is None else positions - (vocabulary.bos_id is not None)
    for number, units in enumerate(sequences):
        if len(units) < 2:
            raise TwistError(f"sequence {number} has {len(units)} units; two are needed to score one")
        if len(units) > most:
            raise TwistError(f"sequence {number} has {len(units)} units, but the model takes {most}; score it in parts")
    by_length = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    before = np.array([] if vocabulary.bos_id is None else [vocabulary.bos_id], np.int64)
    scores: dict[int, NDArray[np.float64]] = {}
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        token_ids = [np.concatenate([before, vocabulary.encode(sequences[index])]) for index in batch]
        flat = torch.from_numpy(np.concatenate(token_ids))
        nll = next_unit_nll(model, flat, list(map(len, token_ids))).double().cpu().numpy()
        for row, index in zip(nll, batch, strict=True):
            scores[index] = -row[len(before) : len(before) + len(sequences[index]) - 1]
    return [scores[index] for index in range(len(sequences))]
