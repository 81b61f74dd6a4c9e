"""A speech LM as it computes while it is trained: in bfloat16, compiled, replicated or sharded, as the settings say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from model.lm.bfloat16 import BFloat16
from model.lm.document_attention import attend_within_documents
from model.lm.speech_lm import bare_model, layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from model.training.distributed import Ranks
    from model.training.rules import Precision


class WorkingSettings(Protocol):
    """The settings that say how a model computes."""

    @property
    def precision(self) -> Precision: ...
    @property
    def sharded(self) -> bool: ...
    @property
    def activation_checkpointing(self) -> bool: ...
    @property
    def compile(self) -> bool: ...


@dataclass(frozen=True)
class WorkingModel:
    """The wrappers of one speech LM.

    Attributes:
        own: For this process alone.
        data_parallel: For all processes together: its backward pass exchanges gradients.
    """

    own: nn.Module
    data_parallel: nn.Module

    @classmethod
    def of(cls, lm: PreTrainedModel, settings: WorkingSettings, ranks: Ranks) -> WorkingModel:
        """Puts `lm` on this process's device, in training mode, and wraps it as the settings say."""
        lm.to(ranks.device).train()
        attend_within_documents(lm)
        if settings.activation_checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
        own: nn.Module = lm
        if settings.sharded and ranks.world_size > 1:
            ranks.shard(lm, layers(lm), bfloat16=settings.precision == "bfloat16")
            data_parallel = own
        else:
            own = BFloat16(lm) if settings.precision == "bfloat16" else lm
            data_parallel = ranks.data_parallel(own)
        if settings.compile:
            for layer in layers(bare_model(own)):
                layer.compile(dynamic=True)
        return cls(own, data_parallel)

    def round_weights(self) -> None:
        """Takes over an update of the weights; call it after each."""
        if isinstance(self.own, BFloat16):
            self.own.round_weights()
