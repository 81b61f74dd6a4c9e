"""GELU in one kernel: transformers writes the GELU of BLOOM, GPT-2 and their kin as half a dozen operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers.activations import NewGELUActivation
from transformers.models.bloom.modeling_bloom import BloomGelu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WRITTEN_OUT = (BloomGelu, NewGELUActivation)


def fuse_gelu(model: PreTrainedModel) -> None:
    """Replaces each GELU that is written out by torch's, which computes the same (its tanh form) in one kernel."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _WRITTEN_OUT):
                setattr(module, name, nn.GELU(approximate="tanh"))
