"""Continues sequences of units with a speech LM: many prompts at once, with one key-value cache.

Prompts of different lengths share a batch, padded on the left and masked. Each continuation has its own random numbers,
which depend only on the seed, the prompt and the number of the continuation, never on the rest of the batch.

Source: Hassid et al. 2023 and textlesslib's examples/twist/twist_generation.py: temperature 0.8, and min(250, 3 x
prompt) tokens, counting the prompt. Ids below the offset (specials) are dropped from the output. Of a model that also
knows text, units alone are drawn. model/lm/generate_mixed.py continues text and units, with the loop that is here.
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

from model.device import warn_of_slow_bfloat16
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
class Row:
    """A continuation being written; `place` is (number of the prompt, number of the continuation).

    Its sequence begins with what stands before units, if anything does. `uniforms` are random numbers from 0 to 1, one
    for each id that will be drawn. Where continuations are ranked, `nats` is minus the model's own log-probability of
    what has been drawn.
    """

    place: tuple[int, int]
    sequence: GrowingSequence
    uniforms: NDArray[np.float64]
    nats: float = 0.0

    @property
    def num_drawn(self) -> int:
        return len(self.sequence.ids) - self.sequence.num_prompt_ids

    @property
    def written(self) -> NDArray[np.int64]:
        return np.array(self.sequence.ids[self.sequence.num_prompt_ids :], np.int64)

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_drawn


def ready_for_inference(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Puts a speech LM on `device` in `dtype`, for inference only."""
    if dtype == torch.bfloat16:
        warn_of_slow_bfloat16(device)
    return model.to(device, dtype).eval().requires_grad_(False)


def ready_for_generation(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Puts a speech LM on `device` in `dtype`, for drawing units only."""
    return ready_for_drawing(ready_for_inference(model, dtype, device))


def ready_for_drawing(model: PreTrainedModel) -> PreTrainedModel:
    """Packs the linear layers of a model from `ready_for_inference` on the CPU, unless they are.

    A step on a few rows is bound by reading the weights, and torch's own matrix product reads them at half the speed
    when there are few rows. On the thousands of rows of a scoring pass it is the quicker one.
    """
    weight = next(model.parameters())
    if can_pack(weight.dtype, weight.device):
        pack_linear_layers(model)
    return model


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
    assert not config.needs_pace or seconds_per_unit is not None, "min_s and max_s take the pace of each prompt"
    paces_s = [math.inf] * len(prompts) if seconds_per_unit is None else seconds_per_unit
    ends = end_ids(model)
    rows = [
        _row(prompt, vocabulary, config, ends, pace_s, (prompt_number, number))
        for prompt_number, (prompt, pace_s) in enumerate(zip(prompts, paces_s, strict=True))
        for number in range(num_continuations)
    ]
    if rows:
        num_before = len(vocabulary.start_ids)
        require_positions(model.config, max(row.sequence.max_ids for row in rows) - num_before, num_before)
    write(model, rows, vocabulary.pad_id, config, batch_size, drawn_ids(vocabulary))
    return [[_units(row, vocabulary) for row in of_prompt] for of_prompt in by_prompt(rows, num_continuations, config)]


def drawn_ids(vocabulary: Vocabulary) -> NDArray[np.int64] | None:
    """What is drawn where units are continued: these alone in a model of text too, else None, any row of the table."""
    return np.arange(vocabulary.offset, vocabulary.offset + vocabulary.codebook_size) if vocabulary.text_size else None


def _units(row: Row, vocabulary: Vocabulary) -> NDArray[np.uint16]:
    return vocabulary.decode(row.written[vocabulary.is_unit(row.written)])


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """The ids of which each ends a sequence of a model."""
    # transformers reads generation_config.json into it, or takes the config's where there is none.
    end = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    return frozenset(() if end is None else [end] if isinstance(end, int) else end)


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    rows: Sequence[Row],
    pad_id: int,
    config: SamplingConfig,
    batch_size: int,
    allowed_ids: NDArray[np.int64] | None = None,
) -> None:
    """Completes all rows, in batches.

    Args:
        model: A model from `ready_for_generation`.
        rows: What to continue.
        pad_id: Fills rows up to a common length.
        config: How to draw.
        batch_size: Rows that are written at once.
        allowed_ids: What can be drawn; None: every row of the table.
    """
    # Rows that end at about the same time share a batch.
    ordered = sorted(rows, key=lambda row: (row.sequence.max_ids, row.sequence.num_prompt_ids), reverse=True)
    for first in range(0, len(rows), batch_size):
        _write_batch(model, ordered[first : first + batch_size], pad_id, config, allowed_ids)


def by_prompt(rows: Sequence[Row], num_continuations: int, config: SamplingConfig) -> list[list[Row]]:
    """The finished rows of each prompt: by their number or, where continuations are ranked, from the likeliest on."""
    ordered = sorted(rows, key=lambda row: (row.place[0], row.nats_per_token if config.ranked else 0.0, row.place[1]))
    return [ordered[first : first + num_continuations] for first in range(0, len(rows), num_continuations)]


def uniforms_of(content: bytes, seed: int, number: int, count: int) -> NDArray[np.float64]:
    """Random numbers [count] from 0 to 1 of continuation `number` of a prompt with this content."""
    digest = hashlib.sha256(content).digest()
    # Of numpy's random streams only the raw bits are the same in every version.
    stream = np.random.PCG64(np.random.SeedSequence([seed, number, int.from_bytes(digest[:16], "big")]))
    uniforms: NDArray[np.float64] = (stream.random_raw(count) >> np.uint64(11)) * np.float64(2.0**-53)
    return uniforms


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
) -> Row:
    if len(prompt) == 0:
        raise TwistError("a prompt has no units")
    max_length = config.max_length(len(prompt))
    if max_length <= len(prompt):
        raise TwistError(
            f"a prompt of {len(prompt)} units leaves no room in max_units ({config.max_units}): raise it, or give less "
            f"of a prompt"
        )
    content = np.ascontiguousarray(prompt, np.uint16).tobytes()
    uniforms = uniforms_of(content, config.seed, place[1], max_length - len(prompt))
    # No model has seen units without what stands before them; it does not count in the length, as in slamkit.
    before = vocabulary.start_ids
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
    return Row(place, sequence, uniforms)


def _write_batch(
    model: PreTrainedModel, rows: list[Row], pad_id: int, config: SamplingConfig, allowed_ids: NDArray[np.int64] | None
) -> None:
    """Completes all rows, with one forward pass per id over the rows that are not finished."""
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
        logits = only(output.logits[:, -1].double(), allowed_ids)
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


def only(logits: Tensor, allowed_ids: NDArray[np.int64] | None) -> Tensor:
    """Logits [B, V] with -inf for all but the allowed ids; None: all are."""
    if allowed_ids is None:
        return logits
    allowed = torch.from_numpy(allowed_ids).to(logits.device)
    return torch.full_like(logits, -math.inf).index_copy(1, allowed, logits[:, allowed])


def _draw(shares: Tensor, uniforms: Tensor) -> Tensor:
    """The first unit at which the cumulative sum of shares [B, V] exceeds uniforms [B, 1], in [0, 1) -> [B]."""
    sums = shares.cumsum(dim=1)
    # However the sums are rounded, a unit of zero share is never drawn.
    last = shares.shape[1] - 1 - (shares > 0).flip(1).int().argmax(dim=1)
    return torch.minimum(torch.searchsorted(sums, uniforms * sums[:, -1:], right=True)[:, 0], last)
