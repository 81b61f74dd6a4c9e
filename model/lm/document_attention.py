"""Causal attention that stops at document boundaries, for any transformers causal LM, without padding.

The documents of a batch are concatenated into one row, [1, N]. Only attention has to know the boundaries: every other
layer treats each position alike. On the CPU attention is computed document by document; on a GPU in half precision one
flash kernel takes sequences of different lengths. Position ids start at 0 in each document.

Most transformers families look their attention function up in a table, where ours is registered. BLOOM and ImageGPT
hard-code theirs, so their attention modules are replaced by ours, which are otherwise the same.
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
# What some families add to plain causal attention, by the names of the arguments with which transformers passes it.
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class Documents:
    """How a row of N positions is divided into documents.

    Attributes:
        lengths: Number of positions in each document; they add up to N.
        starts: [num_documents + 1] int32, the start of each document, then N; on the model's device.
        position_ids: [1, N], from 0 within each document, or from the end of its prefix; on the model's device.
        prefixes: Of each document, the positions of the row that it continues, [P], in order, or None; on the model's
            device. So what several documents begin with is computed once. None: no document continues another.
    """

    lengths: tuple[int, ...]
    starts: Tensor
    position_ids: Tensor
    prefixes: tuple[Tensor | None, ...] | None = None

    @classmethod
    def of_lengths(
        cls, lengths: Sequence[int], device: torch.device, prefixes: Sequence[Tensor | None] | None = None
    ) -> Documents:
        """Documents of these lengths, one after another; those with a prefix continue earlier positions."""
        sizes = torch.tensor(lengths)
        ends = sizes.cumsum(0)
        starts = F.pad(ends, (1, 0))
        firsts = starts[:-1]
        if prefixes is not None:
            firsts = firsts - torch.tensor([0 if prefix is None else len(prefix) for prefix in prefixes])
            prefixes = tuple(None if prefix is None else prefix.to(device) for prefix in prefixes)
        position_ids = torch.arange(int(ends[-1])) - firsts.repeat_interleave(sizes)
        return cls(tuple(lengths), starts.int().to(device), position_ids[None].to(device), prefixes)


class _Current:
    """The documents of the current forward pass; all attention modules of a model share one instance.

    This is an attribute rather than an argument because some families do not pass arguments on to their attention. It
    keeps its value until the next forward pass: activation checkpointing recomputes layers in the backward pass.
    """

    documents: Documents | None = None


def attend_within_documents(model: PreTrainedModel) -> None:
    """Makes a model's attention stop at document boundaries from now on; set them with `set_documents`."""
    current = _Current()
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            module.current = current
            module.__class__ = _WRITTEN_OUT.get(type(module), type(module))
    model.current = current
    model.config._attn_implementation = NAME


def set_documents(model: nn.Module, documents: Documents) -> None:
    """Sets the documents of the next forward pass."""
    current = model.current
    assert isinstance(current, _Current)
    current.documents = documents


@contextlib.contextmanager
def attention_within_documents(model: PreTrainedModel) -> Iterator[None]:
    """`attend_within_documents` for the length of a `with` block; does nothing if it is in force already."""
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
        documents: How the N positions are divided.
        scale: Factor on the products of queries and keys.
        dropout: Share of attention weights that are zeroed.
        slopes: [H] for ALiBi: slope * d is subtracted from the score of a key d positions back.

    Returns:
        [1, N, H, D].
    """
    if slopes is None and dropout == 0 and documents.prefixes is None and has_flash_kernel(query.device, query.dtype):
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
    prefixes = documents.prefixes or (None,) * len(documents.lengths)
    longest = max(
        length + (0 if prefix is None else len(prefix))
        for length, prefix in zip(documents.lengths, prefixes, strict=True)
    )
    bias = None if slopes is None else _alibi(slopes, longest, query.dtype)
    attended_parts = []
    for (q, k, v), prefix in zip(parts, prefixes, strict=True):
        if prefix is not None:
            k, v = (torch.cat([whole.index_select(2, prefix), own], 2) for whole, own in ((key, k), (value, v)))
        attended_parts.append(_attend_in_one(q, k, v, scale=scale, dropout=dropout, bias=bias))
    return torch.cat(attended_parts, dim=1)


def _attend_in_one(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float, bias: Tensor | None
) -> Tensor:
    """Causal attention of the last positions of a document, [1, H, T, D], to all of it, [1, H, S, D]: [1, T, H, D]."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    num_before = num_keys - num_queries
    if bias is not None:
        bias = bias[:, :, num_before:num_keys, :num_keys]
    elif num_before:
        bias = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device).tril_(num_before)
    elif dropout == 0 and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return causal_attention(query[0], key[0], value[0], scale).transpose(0, 1)[None]
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=bias is None, scale=scale
    )
    return attended.transpose(1, 2)


def has_flash_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether one kernel takes documents of different lengths; it knows no prefixes."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def _alibi(slopes: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """The bias that ALiBi adds to scores, [1, H, length, length]; minus infinity for later keys."""
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
    """The function that transformers' attention modules find under NAME and call."""
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
