"""Causal attention of one document in bfloat16 on the CPU, as matrix products.

torch's flash kernel for the CPU works in small tiles. Without AMX that takes about twice as long as plain matrix
products, above all in the backward pass (see docs/performance.md). Here each block of queries attends to all keys up to
the end of the block. The attention weights are kept for the backward pass: about H * T * T / 2 bfloat16 numbers per
document. Scores and other intermediate results are rounded to bfloat16; sums and the inside of the softmax are float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

QUERIES_AT_ONCE = 192


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of each position to itself and to earlier positions.

    Args:
        query: [H, T, D] bfloat16.
        key: As query.
        value: As query.
        scale: Factor on the products of queries and keys.

    Returns:
        [H, T, D].
    """
    attended = _CausalAttention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    assert isinstance(attended, Tensor)
    return attended


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        attended = torch.empty_like(query)
        kept = []
        for start, end in _blocks(query.shape[1]):
            is_later = torch.full((end - start, end), -torch.inf, dtype=query.dtype).triu_(start + 1)
            keys = key[:, :end].transpose(1, 2)
            scores = torch.baddbmm(is_later.expand(len(key), -1, -1), query[:, start:end], keys, alpha=scale)
            weights = torch.softmax(scores, dim=-1)
            attended[:, start:end] = weights @ value[:, :end]
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale = scale
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *kept = ctx.saved_tensors
        gradient = gradient.contiguous()
        query_gradient, key_gradient, value_gradient = (torch.zeros_like(tensor) for tensor in (query, key, value))
        for (start, end), weights in zip(_blocks(query.shape[1]), kept, strict=True):
            here = gradient[:, start:end]
            value_gradient[:, :end] += weights.transpose(1, 2) @ here
            of_weights = here @ value[:, :end].transpose(1, 2)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            query_gradient[:, start:end] = of_scores @ key[:, :end]
            key_gradient[:, :end] += of_scores.transpose(1, 2) @ query[:, start:end]
        return query_gradient.mul_(ctx.scale), key_gradient.mul_(ctx.scale), value_gradient, None


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """The start and end of each block of queries; blocks are of nearly equal size."""
    size = math.ceil(length / math.ceil(length / QUERIES_AT_ONCE))
    for start in range(0, length, size):
        yield start, min(length, start + size)
