"""AdamW over a model, and its learning rate as a function of the step alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

Schedule = Literal["inverse_sqrt", "cosine", "linear"]
Precision = Literal["float32", "bfloat16"]


def adamw(model: nn.Module, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW that decays matrices only: not biases, norms and embedding tables (nor a head tied to one).

    The learning rate is 0 until it is set for a step.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}

    def group(decayed: bool) -> Iterator[nn.Parameter]:
        for parameter in model.parameters():
            if parameter.requires_grad and (parameter.ndim >= 2 and id(parameter) not in embeddings) == decayed:
                yield parameter

    groups = [
        {"params": list(group(True)), "weight_decay": weight_decay},
        {"params": list(group(False)), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps, fused=True)


def learning_rate(
    step: int, schedule: Schedule, *, peak: float, final: float, warmup_steps: int, num_steps: int
) -> float:
    """The learning rate of update `step` (the first is 1).

    It rises linearly to `peak` over `warmup_steps`, then:
    - inverse_sqrt: falls as 1 / sqrt(step) until it reaches `final`, where it stays, whatever `num_steps`. The paper
      (appendix A.1) gives both rates and the warm-up, not how they are joined; read this way, 4e-4 after 100 steps of
      warm-up is down to 8e-5 at step 2500;
    - cosine: falls along half a cosine and reaches `final` at `num_steps`;
    - linear: falls on a straight line and reaches `final` at `num_steps` (fairseq's polynomial_decay, with which HuBERT
      is pretrained).
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "inverse_sqrt":
        return max(final, peak * math.sqrt(max(warmup_steps, 1) / step))
    progress = min(1.0, (step - warmup_steps) / (num_steps - warmup_steps))
    if schedule == "linear":
        return peak + (final - peak) * progress
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets one rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
