"""Forward and backward passes in bfloat16 with weights, gradients and their sums in float32."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.nn import Parameter


class BFloat16(nn.Module):
    """Runs a float32 model in bfloat16: each weight is rounded once per update, and all activations are bfloat16.

    torch.autocast instead rounds the weights in every forward pass and converts between the two types around each
    layer. Here the rounding is part of the graph, so gradients accumulate in the model's own float32 parameters, which
    are this module's parameters too.

    Args:
        model: In float32. It is not changed, and is the one to save.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        shared = {id(tensor): tensor for tensor in model.parameters()}
        compute = copy.deepcopy(model, memo=shared)
        # In __dict__, so that nn.Module does not register the copy's tensors as further parameters.
        self.__dict__["compute"] = compute
        self._slots: list[tuple[nn.Module, str, Parameter]] = []
        for module in compute.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    del module._parameters[name]
                    self._slots.append((module, name, parameter))
        self.round_weights()

    def round_weights(self) -> None:
        """Rounds the current weights to bfloat16. Call this after each update."""
        rounded: dict[int, Tensor] = {}  # a table tied to the head is rounded once
        for module, name, parameter in self._slots:
            if id(parameter) not in rounded:
                rounded[id(parameter)] = parameter.to(torch.bfloat16)
            module.__dict__[name] = rounded[id(parameter)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, computed in bfloat16."""
        return self.__dict__["compute"](*args, **kwargs)

    def train(self, mode: bool = True) -> BFloat16:
        """Sets the mode of the model and of its bfloat16 copy."""
        self.__dict__["compute"].train(mode)
        super().train(mode)
        return self
