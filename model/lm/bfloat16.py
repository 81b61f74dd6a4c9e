"""Forward and backward passes in bfloat16 with weights, gradients and their sums in float32."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.nn import Parameter


class BFloat16(nn.Module):
    """A model as computed in bfloat16: each weight is rounded once per update, all that comes between is bfloat16.

    torch.autocast instead rounds weights in every forward pass, and goes back and forth between both types around each
    layer. The rounding is part of the graph: gradients arrive at, and are summed into, the model's own float32
    parameters, which are this module's parameters too.

    Args:
        model: In float32; stays as it is, and is what to save.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        shared = {id(tensor): tensor for tensor in model.parameters()}
        compute = copy.deepcopy(model, memo=shared)
        # Hidden from nn.Module, to which its tensors would be parameters of another kind.
        self.__dict__["compute"] = compute
        self._slots: list[tuple[nn.Module, str, Parameter]] = []
        for module in compute.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    del module._parameters[name]
                    self._slots.append((module, name, parameter))
        self.round_weights()

    def round_weights(self) -> None:
        """Takes over the weights as they are now; to be called after each update."""
        rounded: dict[int, Tensor] = {}  # a table that is tied to the head is rounded once
        for module, name, parameter in self._slots:
            if id(parameter) not in rounded:
                rounded[id(parameter)] = parameter.to(torch.bfloat16)
            module.__dict__[name] = rounded[id(parameter)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives, in bfloat16."""
        return self.__dict__["compute"](*args, **kwargs)

    def train(self, mode: bool = True) -> BFloat16:
        """Sets the mode of the model and of its copy."""
        self.__dict__["compute"].train(mode)
        super().train(mode)
        return self
