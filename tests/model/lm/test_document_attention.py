"""Attention within documents against attention with one mask over the row; and the arguments of the GPU kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.lm import document_attention
from model.lm.document_attention import Documents, attend

LENGTHS = (3, 1, 6)


def inputs(num_heads: int, num_key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    heads = (num_heads, num_key_heads, num_key_heads)
    query, key, value = (torch.randn(1, count, sum(LENGTHS), 8, requires_grad=True) for count in heads)
    return query, key, value


def masked(query: Tensor, key: Tensor, value: Tensor, slopes: Tensor | None = None) -> Tensor:
    """The expected attention, computed with one mask over the whole row."""
    document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.arange(sum(LENGTHS))
    sees = (document[:, None] == document) & (place[:, None] >= place)
    bias = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)
    if slopes is not None:
        bias = bias + slopes[:, None, None] * place  # as in BLOOM: rises with the key's position
    num_sharing = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(num_sharing, dim=1) for tensor in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=0.3).transpose(1, 2)


@pytest.mark.parametrize("num_key_heads", [4, 2])
@pytest.mark.parametrize("with_alibi", [False, True])
def test_it_equals_one_mask_over_all(num_key_heads: int, with_alibi: bool) -> None:
    slopes = torch.tensor([0.5, 0.25, 0.1, 0.01]) if with_alibi else None
    documents = Documents.of_lengths(LENGTHS, torch.device("cpu"))
    tensors = inputs(4, num_key_heads)
    attended = attend(*tensors, documents, scale=0.3, slopes=slopes)
    expected = masked(*tensors, slopes)
    torch.testing.assert_close(attended, expected)
    weight = torch.randn(expected.shape)
    ours = torch.autograd.grad((attended * weight).sum(), tensors)
    theirs = torch.autograd.grad((expected * weight).sum(), tensors)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_places_start_anew_in_each_document() -> None:
    documents = Documents.of_lengths(LENGTHS, torch.device("cpu"))
    assert documents.position_ids.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3, 4, 5]]
    assert documents.starts.tolist() == [0, 3, 4, 10] and documents.starts.dtype == torch.int32


def test_the_kernel_for_gpus_is_given_the_same_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in, written from torch's documentation, replaces varlen_attn; the kernel itself needs a GPU."""

    def varlen_attn(query: Tensor, key: Tensor, value: Tensor, *sizes: Any, **options: Any) -> Tensor:
        starts, key_starts, longest, longest_key = sizes
        assert options.pop("window_size") == (-1, 0), "(-1, 0) stands for causal attention"
        assert options.pop("enable_gqa") is True
        assert starts.dtype == torch.int32 and torch.equal(starts, key_starts)
        assert longest == longest_key == max(LENGTHS)
        scale = options.pop("scale")
        assert not options
        parts = []
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
            parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True))
        return torch.cat([part.transpose(0, 1) for part in parts])

    monkeypatch.setattr(document_attention, "varlen_attn", varlen_attn)
    monkeypatch.setattr(document_attention, "has_flash_kernel", lambda *_: True)
    tensors = inputs(4, 2)
    documents = Documents.of_lengths(LENGTHS, torch.device("cpu"))
    torch.testing.assert_close(attend(*tensors, documents, scale=0.3), masked(*tensors))
