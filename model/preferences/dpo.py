"""Direct preference optimization: the loss, and the log-probabilities that it compares.

Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7. Log-probabilities are sums over the ending
and its EOS, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.lm.speech_lm import next_unit_nll

if TYPE_CHECKING:
    from model.preferences.pair_batches import PairMicroBatch


class PairLogProbs(NamedTuple):
    """The log-probability of each pair's chosen and rejected ending, given its prompt: [B] each, in nats."""

    chosen: Tensor
    rejected: Tensor


def dpo_margins(policy: PairLogProbs, reference: PairLogProbs, beta: float) -> Tensor:
    """How much more the model has gained on the chosen ending than on the rejected one, times `beta`: [B]."""
    return beta * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected))


def dpo_loss(policy: PairLogProbs, reference: PairLogProbs, beta: float) -> Tensor:
    """DPO's loss of each pair, [B]: log 2 where the model is the reference."""
    return -F.logsigmoid(dpo_margins(policy, reference, beta))


def ending_log_probs(model: nn.Module, batch: PairMicroBatch) -> PairLogProbs:
    """The log-probabilities of the endings of a forward pass, summed in float32.

    Args:
        model: A causal LM, bare or wrapped.
        batch: The pairs.
    """
    nll = next_unit_nll(model, batch.token_ids, batch.lengths)
    # Column c is of token c + 1.
    starts = torch.tensor(batch.starts, device=nll.device)[:, None]
    is_ending = torch.arange(1, nll.shape[1] + 1, device=nll.device) >= starts
    sums = -(nll * is_ending).sum(dim=1)
    return PairLogProbs(sums[::2], sums[1::2])


def without_dropout(model: nn.Module) -> None:
    """Turns a model's dropout off, in training mode too: noise would count as distance from the reference."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "layerdrop"):  # which attention and OPT's layers keep as numbers
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
