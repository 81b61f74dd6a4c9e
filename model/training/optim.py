"""AdamW over the parameters of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator


def adamw(model: nn.Module, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on biases, norms or embedding tables (or a head tied to one).

    The learning rate is 0 until `set_learning_rate`.
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


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
