"""PackedLinear against torch's own linear layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.packed_linear import PackedLinear, can_pack, pack_linear_layers

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_pack(torch.float32, CPU), reason="torch has no oneDNN here")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.inference_mode()
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 48), (3, 48), (2, 5, 48), (3_000, 48), (0, 48)], ids=str)
def test_packed_equals_plain(shape: tuple[int, ...], has_bias: bool, gelu: bool) -> None:
    weight, bias = random(80, 48), random(80) if has_bias else None
    rows = random(*shape)
    expected = F.linear(rows, weight, bias)
    packed = PackedLinear(weight, bias, gelu=gelu)(rows)
    torch.testing.assert_close(packed, F.gelu(expected) if gelu else expected, atol=2e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason="this CPU has no bfloat16 products")
def test_packed_bfloat16_equals_plain() -> None:
    weight, bias, rows = (tensor.bfloat16() for tensor in (random(80, 48), random(80), random(300, 48)))
    packed = PackedLinear(weight, bias, gelu=False)(rows)
    assert packed.dtype == torch.bfloat16
    torch.testing.assert_close(packed, F.linear(rows, weight, bias), atol=0.1, rtol=0.02)


@torch.inference_mode()
def test_all_linear_layers_of_a_module_are_packed() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4)))
    rows = random(5, 8)
    expected = module(rows)
    pack_linear_layers(module)
    assert not any(isinstance(part, nn.Linear) for part in module.modules())
    torch.testing.assert_close(module(rows), expected)


def test_only_the_cpu_packs() -> None:
    assert not can_pack(torch.float32, torch.device("cuda"))
    assert not can_pack(torch.float64, CPU)
