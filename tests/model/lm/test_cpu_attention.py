from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.lm.cpu_attention import QUERIES_AT_ONCE, causal_attention


def inputs(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    query, key, value = (torch.randn(3, length, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    return query.to(dtype).requires_grad_(), key.to(dtype).requires_grad_(), value.to(dtype).requires_grad_()


@pytest.mark.parametrize("length", [1, 2, QUERIES_AT_ONCE, QUERIES_AT_ONCE + 1, 3 * QUERIES_AT_ONCE - 5])
def test_it_equals_torchs_attention(length: int) -> None:
    tensors = inputs(length, torch.float64)
    attended = causal_attention(*tensors, scale=0.3)
    expected = F.scaled_dot_product_attention(*tensors, is_causal=True, scale=0.3)
    torch.testing.assert_close(attended, expected)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    ours = torch.autograd.grad((attended * weight).sum(), tensors)
    theirs = torch.autograd.grad((expected * weight).sum(), tensors)
    torch.testing.assert_close(ours, theirs)


def test_it_is_as_precise_in_bfloat16_as_torchs_kernel() -> None:
    exact = inputs(300, torch.float64)
    expected = F.scaled_dot_product_attention(*exact, is_causal=True)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth = [expected, *torch.autograd.grad((expected * weight).sum(), exact)]

    def errors(attend: object) -> list[float]:
        tensors = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
        attended = attend(*tensors)
        found = [attended, *torch.autograd.grad(attended, tensors, weight.bfloat16())]
        return [float(((mine - true).norm() / true.norm()).detach()) for mine, true in zip(found, truth, strict=True)]

    ours = errors(lambda q, k, v: causal_attention(q, k, v, 8**-0.5))
    torchs = errors(lambda q, k, v: F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0])
    for mine, theirs in zip(ours, torchs, strict=True):
        assert mine < 1.6 * theirs, f"relative errors are {ours}, those of torch's kernel {torchs}"
