"""A linear layer for inference on the CPU, its weight stored in the layout that oneDNN multiplies.

torch's own linear rearranges the weight at every call, which for a clip of a few hundred frames costs a tenth of the
product itself. The operators used here are the ones that torch.compile emits for a frozen linear layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

# The layout is optimized for this many rows and works for any number.
TYPICAL_ROWS = 512


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of `dtype` on `device` gain from packing: on CPUs with oneDNN and arithmetic in `dtype`."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedLinear(nn.Module):
    """rows [..., C] -> rows @ weight.T + bias [..., C'] for weight [C', C], then GELU if asked; no gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> None:
        super().__init__()
        self.bias = bias
        # The operation after the product and its variant: GELU by erf, not its approximation by tanh.
        self._then = ("gelu", "none") if gelu else ("none", "")
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), TYPICAL_ROWS)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, self._then[0], [], self._then[1])  # type: ignore[no-any-return]


def pack_linear_layers(module: nn.Module) -> None:
    """Replaces each nn.Linear inside `module` by its packed form, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child.weight, child.bias, gelu=False))
        else:
            pack_linear_layers(child)
