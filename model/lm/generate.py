"""Continues sequences of units with a speech LM: many prompts at once, with one key-value cache.

Prompts of different lengths share a batch, padded on the left and masked. Each continuation has its own random numbers,
which depend only on the seed, the prompt and the number of the continuation, never on the rest of the batch.

Source: Hassid et al. 2023 and textlesslib's examples/twist/twist_generation.py: temperature 0.8, and min(250, 3 x
prompt) tokens, counting the prompt. Ids below the offset (specials) are dropped from the output.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache

from model.lm.controls import GrowingSequence, Lengths, controlled
from model.lm.speech_lm import require_positions
from model.packed_linear import can_pack, pack_linear_layers
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

    from model.lm.sampling_config import SamplingConfig
    from model.lm.vocab import Vocabulary


@dataclass
class _Row:
    """A continuation being written; `place` is (number of the prompt, number of the continuation).

    Its sequence begins with the model's BOS, if it has one. Where continuations are ranked, `nats` is minus the model's
    own log-probability of what has been drawn.
    """

    place: tuple[int, int]
    sequence: GrowingSequence
    uniforms: NDArray[np.float64]
    nats: float = 0.0

    @property
    def num_drawn(self) -> int:
        return len(self.sequence.ids) - self.sequence.num_prompt_ids

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_drawn


def ready_for_generation(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Puts a speech LM on `device` in `dtype`, for inference only.

    On the CPU its linear layers are packed: a step on a few rows is bound by reading the weights, and torch's own
    matrix product reads them at half the speed when there are few rows.
    """
    model.to(device, dtype).eval().requires_grad_(False)
    if can_pack(dtype, device):
        pack_linear_layers(model)
    return model


@torch.inference_mode()
def continue_units(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[NDArray[np.uint16]],
    config: SamplingConfig,
    num_continuations: int = 1,
    batch_size: int = 32,
    seconds_per_unit: Sequence[float] | None = None,
) -> list[list[NDArray[np.uint16]]]:
    """Continues each prompt `num_continuations` times; returns the new units, without the prompt and without specials.

    Args:
        model: A speech LM from `ready_for_generation`.
        vocabulary: The model's; rows of the model beyond it count as specials.
        prompts: Units without repeats, [n] each.
        config: How to draw units.
        num_continuations: Continuations per prompt.
        batch_size: Continuations written at once.
        seconds_per_unit: The pace of each prompt; needed if `config` says how many seconds a continuation lasts.

    Raises:
        TwistError: a prompt is empty, has a unit outside the codebook or leaves no room for a continuation, or the
            model has too few positions.
    """
    # transformers reads generation_config.json into it, or takes the config's where there is none.
    end = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    end_ids = frozenset(() if end is None else [end] if isinstance(end, int) else end)
    assert not config.needs_pace or seconds_per_unit is not None, "min_s and max_s take the pace of each prompt"
    paces_s = [math.inf] * len(prompts) if seconds_per_unit is None else seconds_per_unit
    rows = [
        _row(prompt, vocabulary, config, end_ids, pace_s, (prompt_number, number))
        for prompt_number, (prompt, pace_s) in enumerate(zip(prompts, paces_s, strict=True))
        for number in range(num_continuations)
    ]
    if rows:
        num_before = int(vocabulary.start_id is not None)
        require_positions(model.config, max(row.sequence.max_ids for row in rows) - num_before, num_before)
    # Rows that end at about the same time share a batch.
    rows.sort(key=lambda row: (row.sequence.max_ids, row.sequence.num_prompt_ids), reverse=True)
    for first in range(0, len(rows), batch_size):
        _write(model, rows[first : first + batch_size], vocabulary.pad_id, config)
    rows.sort(key=lambda row: (row.place[0], row.nats_per_token if config.ranked else 0.0, row.place[1]))
    units = [_units(row, vocabulary) for row in rows]
    return [units[first : first + num_continuations] for first in range(0, len(rows), num_continuations)]


def _units(row: _Row, vocabulary: Vocabulary) -> NDArray[np.uint16]:
    written = np.array(row.sequence.ids[row.sequence.num_prompt_ids :], np.int64)
    is_unit = (written >= vocabulary.offset) & (written < vocabulary.vocab_size)
    return vocabulary.decode(written[is_unit])


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """The distribution that units are drawn from: logits [B, V] -> [B, V] float64, zero outside top_k and top_p."""
    logits = logits.double()
    if config.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).double()
    logits = logits / config.temperature
    if config.top_k is not None and config.top_k < logits.shape[1]:
        least = logits.topk(config.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    shares = logits.softmax(dim=1)
    if config.top_p is not None:
        ordered, places = shares.sort(dim=1, descending=True, stable=True)
        is_over = ordered.cumsum(dim=1) - ordered >= config.top_p
        shares = torch.zeros_like(shares).scatter(1, places, ordered.masked_fill(is_over, 0.0))
        shares = shares / shares.sum(dim=1, keepdim=True)
    return shares


def _row(
    prompt: NDArray[np.uint16],
    vocabulary: Vocabulary,
    config: SamplingConfig,
    end_ids: frozenset[int],
    pace_s: float,
    place: tuple[int, int],
) -> _Row:
    if len(prompt) == 0:
        raise TwistError("a prompt has no units")
    max_length = config.max_length(len(prompt))
    if max_length <= len(prompt):
        raise TwistError(
            f"a prompt of {len(prompt)} units leaves no room in max_units ({config.max_units}): raise it, or give less "
            f"of a prompt"
        )
    digest = hashlib.sha256(np.ascontiguousarray(prompt, np.uint16).tobytes()).digest()
    # Of numpy's random streams only the raw bits are the same in every version.
    stream = np.random.PCG64(np.random.SeedSequence([config.seed, place[1], int.from_bytes(digest[:16], "big")]))
    bits = stream.random_raw(max_length - len(prompt)) >> np.uint64(11)
    uniforms: NDArray[np.float64] = bits * np.float64(2.0**-53)
    # slamkit's models have never seen a sequence without BOS; it does not count in the length, there either.
    before = [] if vocabulary.start_id is None else [vocabulary.start_id]
    ids = [*before, *vocabulary.encode(prompt).tolist()]
    fewest, most = Lengths(config.min_s, config.max_s).in_tokens(pace_s)
    pause_units = np.array([unit for unit in config.pause_units if unit < vocabulary.codebook_size], np.uint16)
    sequence = GrowingSequence(
        ids,
        min_ids=len(ids) + fewest,
        max_ids=min(max_length + len(before), len(ids) + (max_length if most is None else most)),
        end_ids=end_ids,
        pause_ids=frozenset(vocabulary.encode(pause_units).tolist()),
        no_repeat_ngram=config.no_repeat_ngram,
    )
    return _Row(place, sequence, uniforms)


def _write(model: PreTrainedModel, rows: list[_Row], pad_id: int, config: SamplingConfig) -> None:
    """Completes all rows, with one forward pass per unit over the rows that are not finished."""
    prompts = [row.sequence.ids for row in rows]
    longest = max(map(len, prompts))
    token_ids = torch.tensor([[pad_id] * (longest - len(ids)) + ids for ids in prompts], device=model.device)
    num_pads = torch.tensor([longest - len(ids) for ids in prompts], device=model.device)
    mask = (torch.arange(longest, device=model.device) >= num_pads[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    while True:
        given = {"position_ids": positions} if takes_positions else {}
        output = model(
            input_ids=token_ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **given
        )
        logits = output.logits[:, -1].double()
        uniforms = [[float(row.uniforms[row.num_drawn])] for row in rows]
        shares = probabilities(controlled(logits, [row.sequence for row in rows], config.repetition_penalty), config)
        drawn = _draw(shares, torch.tensor(uniforms, dtype=torch.float64, device=model.device))
        for row, token_id in zip(rows, drawn.tolist(), strict=True):
            row.sequence.append(token_id)
        if config.ranked:
            log_shares = logits.log_softmax(dim=1).gather(1, drawn[:, None])[:, 0]
            for row, log_share in zip(rows, log_shares.tolist(), strict=True):
                row.nats -= log_share
        going = [place for place, row in enumerate(rows) if not row.sequence.is_finished]
        if not going:
            return
        token_ids, positions = drawn[:, None], positions[:, -1:] + 1
        if len(going) < len(rows):
            rows = [rows[place] for place in going]
            kept = torch.tensor(going, device=model.device)
            cache.batch_select_indices(kept)
            token_ids, positions, mask = token_ids[kept], positions[kept], mask[kept]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def _draw(shares: Tensor, uniforms: Tensor) -> Tensor:
    """The first unit at which the cumulative sum of shares [B, V] exceeds uniforms [B, 1], in [0, 1) -> [B]."""
    sums = shares.cumsum(dim=1)
    # However the sums are rounded, a unit of zero share is never drawn.
    last = shares.shape[1] - 1 - (shares > 0).flip(1).int().argmax(dim=1)
    return torch.minimum(torch.searchsorted(sums, uniforms * sums[:, -1:], right=True)[:, 0], last)
