"""Causal attention that does not look across documents, for any transformers causal LM, with nothing spent on pads.

Units of a batch are laid one document behind the other, [1, N]; all layers but attention treat positions alike and need
not know. Attention is computed document by document on the CPU, and on a GPU in half precision by one kernel for
sequences of unlike length (flash). Position ids start anew with each document.

transformers lets most families take their attention from a table of functions; BLOOM and ImageGPT have theirs
written out, and get attention modules of ours that are otherwise the same.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.models.bloom.modeling_bloom import BloomAttention, _get_alibi_slopes
from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

from model.lm.cpu_attention import causal_attention
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

NAME = "twist_documents"
# What some families do beside plain causal attention, under the names by which transformers passes it.
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class Documents:
    """How a row of N positions is parted into documents.

    Attributes:
        lengths: Positions of each document; they add up to N.
        starts: [num_documents + 1] int32, where each begins, and N; on the model's device.
        position_ids: [1, N], from 0 within each document; on the model's device.
    """

    lengths: tuple[int, ...]
    starts: Tensor
    position_ids: Tensor

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], device: torch.device) -> Documents:
        """Documents of these lengths, one behind the other."""
        sizes = torch.tensor(lengths)
        ends = sizes.cumsum(0)
        starts = F.pad(ends, (1, 0))
        position_ids = torch.arange(int(ends[-1])) - starts[:-1].repeat_interleave(sizes)
        return cls(tuple(lengths), starts.int().to(device), position_ids[None].to(device))


class _Current:
    """The documents of the forward pass under way; all attention modules of a model share one.

    It is an attribute and no argument because some families do not hand arguments down to their attention. It keeps its
    value until the next forward pass: activation checkpointing computes layers again during the backward pass.
    """

    documents: Documents | None = None


def attend_within_documents(model: PreTrainedModel) -> None:
    """Makes a model's attention stop at documents' boundaries, from now on; `set_documents` tells it where they are."""
    current = _Current()
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            module.current = current
            module.__class__ = _WRITTEN_OUT.get(type(module), type(module))
    model.current = current
    model.config._attn_implementation = NAME


def set_documents(model: nn.Module, documents: Documents) -> None:
    """Says how the next forward pass's row is parted."""
    current = model.current
    assert isinstance(current, _Current)
    current.documents = documents


@contextlib.contextmanager
def attention_within_documents(model: PreTrainedModel) -> Iterator[None]:
    """`attend_within_documents` for a while; nothing changes where it is in force already."""
    if hasattr(model, "current"):
        yield
        return
    before = model.config._attn_implementation
    attend_within_documents(model)
    try:
        yield
    finally:
        model.config._attn_implementation = before
        originals = {ours: theirs for theirs, ours in _WRITTEN_OUT.items()}
        for module in model.modules():
            module.__class__ = originals.get(type(module), type(module))
            module.__dict__.pop("current", None)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    *,
    scale: float,
    dropout: float = 0.0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Causal attention within documents.

    Args:
        query: [1, H, N, D].
        key: [1, H', N, D], with H a multiple of H'.
        value: As key.
        documents: How the N positions are parted.
        scale: What products of queries and keys are multiplied with.
        dropout: Share of attention weights that are zeroed.
        slopes: [H], of ALiBi: a key d positions back has slope * d taken from its score.

    Returns:
        [1, N, H, D].
    """
    if slopes is None and dropout == 0 and _has_flash_kernel(query):
        starts, longest = documents.starts, max(documents.lengths)
        attended = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            starts,
            starts,
            longest,
            longest,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        assert isinstance(attended, Tensor)
        return attended[None]
    if key.shape[1] != query.shape[1]:
        num_sharing = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(num_sharing, dim=1) for tensor in (key, value))
    parts = zip(*(torch.split(tensor, list(documents.lengths), dim=2) for tensor in (query, key, value)), strict=True)
    bias = None if slopes is None else _alibi(slopes, max(documents.lengths), query.dtype)
    if slopes is None and dropout == 0 and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        attended_parts = [causal_attention(q[0], k[0], v[0], scale).transpose(0, 1)[None] for q, k, v in parts]
        return torch.cat(attended_parts, dim=1)
    attended_parts = [
        F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else bias[:, :, : q.shape[2], : q.shape[2]],
            dropout_p=dropout,
            is_causal=bias is None,
            scale=scale,
        ).transpose(1, 2)
        for q, k, v in parts
    ]
    return torch.cat(attended_parts, dim=1)


def _has_flash_kernel(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def _alibi(slopes: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """[1, H, length, length]: what ALiBi adds to scores, and minus infinity for keys that come later."""
    steps = torch.arange(length, device=slopes.device)
    back = (steps[:, None] - steps[None]).float()
    bias = -slopes.float()[:, None, None] * back
    return bias.masked_fill(back < 0, -torch.inf)[None].to(dtype)


def _documents(attention: nn.Module) -> Documents:
    current = attention.current
    assert isinstance(current, _Current) and current.documents is not None
    return current.documents


def _from_table(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' attention modules call."""
    asked = [name for name in UNSUPPORTED if others.get(name) is not None]
    if asked:
        raise TwistError(f"attention with {', '.join(asked)} is not supported; take a text LM without it")
    assert attention_mask is None
    documents = _documents(module)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, documents, scale=scale, dropout=dropout if module.training else 0.0), None


class _BloomAttention(BloomAttention):  # type: ignore[misc]
    def forward(self, hidden_states: Tensor, residual: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        attended = attend(
            query,
            key,
            value,
            _documents(self),
            scale=self.inv_norm_factor,
            dropout=self.attention_dropout.p if self.training else 0.0,
            slopes=_get_alibi_slopes(self.num_heads, hidden_states.device),
        )
        output = self.dense(attended.flatten(2))
        return residual + F.dropout(output, self.hidden_dropout, self.training), None


class _ImageGPTAttention(ImageGPTAttention):  # type: ignore[misc]
    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        parts = self.c_attn(hidden_states).split(self.split_size, dim=2)
        query, key, value = (self._split_heads(part, self.num_heads, self.head_dim) for part in parts)
        scale = self.head_dim**-0.5 if self.scale_attn_weights else 1.0
        attended = attend(
            query,
            key,
            value,
            _documents(self),
            scale=scale / (self.layer_idx + 1) if self.scale_attn_by_inverse_layer_idx else scale,
            dropout=self.attn_dropout.p if self.training else 0.0,
        )
        return self.resid_dropout(self.c_proj(attended.flatten(2))), None


_WRITTEN_OUT: dict[type, type] = {BloomAttention: _BloomAttention, ImageGPTAttention: _ImageGPTAttention}
AttentionInterface.register(NAME, _from_table)
