"""Batches of masked crops of labelled clips, to pretrain a HuBERT on; each depends only on seed and step.

1. Epochs follow each other in one endless stream, each in an order of clips drawn from (seed, epoch). Every
   `STEPS_PER_GROUP` steps' worth of clips is sorted by length and cut into batches, which are then shuffled. So the
   clips of a batch are about equally long, and are cropped to the shortest: batch norm must not see padding.
2. Rank `r` of `W` takes the r-th of W equal slices of each batch.
3. The start and the mask of each crop are drawn from (seed, step).

The model's frames rarely line up with those of the encoder that made the labels: each frame takes the label whose
middle is nearest to its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from model.encoder.hubert_config import HubertConfig
from model.training.step_batches import draw_order, endless_order, require_even_parts
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.encoder.pretrain_config import PretrainConfig
    from pipeline.records import LabelClock

STEPS_PER_GROUP = 64
# Fewest masked spans in a crop, so that each has something to predict.
MIN_MASK_SPANS = 2


class LabelledClips(Protocol):
    """Speech to train on, with a label for each frame: its unit by some encoder and codebook."""

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Length of each clip at 16 kHz, [N]."""
        ...

    @property
    def codebook_size(self) -> int:
        """Number of different labels, K."""
        ...

    @property
    def clock(self) -> LabelClock:
        """The time of each label."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the clips and their labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """wav [S] at 16 kHz and labels [L] of one clip."""
        ...


@dataclass(frozen=True)
class PretrainBatch:
    """One rank's part of one step.

    Attributes:
        index: Number of the step, from 0.
        micro_batches: wav [B, S], units [B, F] and is_masked [B, F], one triple per forward pass.
        num_masked: Masked frames in the step, over all ranks.
        num_unmasked: The other frames.
        num_samples: Samples of audio in the step, over all ranks.
    """

    index: int
    micro_batches: list[tuple[Tensor, Tensor, Tensor]]
    num_masked: int
    num_unmasked: int
    num_samples: int


class PretrainBatches(torch.utils.data.Dataset[PretrainBatch]):
    """Maps a step, counted from 0, to its batch for one rank.

    Raises:
        TwistError: the batch cannot be divided evenly, or no clip is long enough for two masked spans.
    """

    def __init__(self, clips: LabelledClips, config: PretrainConfig, rank: int = 0, world_size: int = 1) -> None:
        require_even_parts("pretrain.batch_size", config.batch_size, world_size, config.gradient_accumulation)
        self._clips = clips
        self._config = config
        self._rank = rank
        self._world_size = world_size
        self._group = -1, np.zeros((0, 0), np.int64)
        self._crop_samples = round(config.crop_s * SAMPLE_RATE_HZ)
        self._usable = np.flatnonzero(clips.num_samples >= shortest_clip_samples(config))
        if len(self._usable) == 0 or self._crop_samples < shortest_clip_samples(config):
            raise TwistError(
                f"pretrain: there is no clip, or no room in crop_s, for two masked spans of {config.mask_span_frames} "
                f"frames ({shortest_clip_samples(config) / SAMPLE_RATE_HZ:.2f} s); give longer speech, or lower "
                f"mask_span_frames"
            )

    def __getitem__(self, index: int) -> PretrainBatch:
        config = self._config
        indices = self.clip_indices(index)
        num_samples = min(int(self._clips.num_samples[indices].min()), self._crop_samples)
        num_frames = config.model.num_frames(num_samples)
        generator = np.random.default_rng([config.seed, index])
        starts = (generator.random(len(indices)) * (self._clips.num_samples[indices] - num_samples + 1)).astype(int)
        is_masked = mask_spans(len(indices), num_frames, config.mask_share, config.mask_span_frames, generator)
        mine = np.arange(len(indices)).reshape(self._world_size, config.gradient_accumulation, -1)[self._rank]
        return PretrainBatch(
            index,
            [self._micro_batch(indices[rows], starts[rows], num_samples, is_masked[rows]) for rows in mine],
            num_masked=int(is_masked.sum()),
            num_unmasked=int((~is_masked).sum()),
            num_samples=num_samples * len(indices),
        )

    def clip_indices(self, index: int) -> NDArray[np.int64]:
        """The clips of batch `index` over all ranks, [batch_size]."""
        group, index_in_group = divmod(index, STEPS_PER_GROUP)
        if self._group[0] != group:
            self._group = group, self._batches_of(group)
        indices: NDArray[np.int64] = self._group[1][index_in_group]
        return indices

    @property
    def num_clips(self) -> int:
        """Number of clips that are long enough to train on."""
        return len(self._usable)

    @property
    def num_samples(self) -> int:
        """Samples in all of these clips together."""
        return int(self._clips.num_samples[self._usable].sum())

    def _batches_of(self, group: int) -> NDArray[np.int64]:
        """The clips of `STEPS_PER_GROUP` batches, [STEPS_PER_GROUP, batch_size]."""
        size = STEPS_PER_GROUP * self._config.batch_size
        stream = self._usable[endless_order(self._config.seed, group * size, (group + 1) * size, len(self._usable))]
        by_length = stream[np.argsort(np.minimum(self._clips.num_samples[stream], self._crop_samples), kind="stable")]
        order = draw_order([self._config.seed, 1, group], STEPS_PER_GROUP)
        batches: NDArray[np.int64] = by_length.reshape(STEPS_PER_GROUP, -1)[order]
        return batches

    def _micro_batch(
        self, indices: NDArray[np.int64], starts: NDArray[np.int64], num_samples: int, is_masked: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor, Tensor]:
        crops = [
            crop(*self._clips[int(index)], int(start), num_samples, self._clips.clock, self._config.model)
            for index, start in zip(indices, starts, strict=True)
        ]
        wav, units = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*crops, strict=True))
        return wav, units, torch.from_numpy(is_masked)


def validation_batches(
    clips: LabelledClips, config: PretrainConfig, rank: int = 0, world_size: int = 1
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """This rank's validation batches, the same each time: `validation_clips` clips drawn from those long enough.

    Raises:
        TwistError: no clip is long enough.
    """
    usable = np.flatnonzero(clips.num_samples >= shortest_clip_samples(config))
    if len(usable) == 0:
        raise TwistError("pretrain: no recording was kept for validation; give more recordings or validation_share")
    # Drawn at random, since the first clips of a run all come from its first corpus.
    usable = usable[draw_order([config.seed, 3], len(usable))[: config.validation_clips]]
    lengths = np.minimum(clips.num_samples[usable], round(config.crop_s * SAMPLE_RATE_HZ))
    by_length = usable[np.argsort(lengths, kind="stable")]
    size = max(1, config.batch_size // (world_size * config.gradient_accumulation))
    batches = []
    for number, first in enumerate(range(0, len(by_length), size)):
        indices = by_length[first : first + size]
        num_samples = min(int(clips.num_samples[indices].min()), round(config.crop_s * SAMPLE_RATE_HZ))
        generator = np.random.default_rng([config.seed, 2, number])
        num_frames = config.model.num_frames(num_samples)
        is_masked = mask_spans(len(indices), num_frames, config.mask_share, config.mask_span_frames, generator)
        if number % world_size == rank:
            crops = [crop(*clips[int(index)], 0, num_samples, clips.clock, config.model) for index in indices]
            wav, units = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*crops, strict=True))
            batches.append((wav, units, torch.from_numpy(is_masked)))
    return batches


def shortest_clip_samples(config: PretrainConfig) -> int:
    """Samples in the shortest clip with room for `MIN_MASK_SPANS` masked spans and one more frame."""
    num_frames = MIN_MASK_SPANS * config.mask_span_frames + 1
    return (num_frames - 1) * config.model.hop_samples + config.model.receptive_field_samples


def crop(
    wav: NDArray[np.float32],
    labels: NDArray[np.uint16],
    start: int,
    num_samples: int,
    clock: LabelClock,
    model: HubertConfig,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A stretch of a clip, wav [num_samples], and the label of each of the model's frames in it, units [F]."""
    assert start + num_samples <= len(wav), f"{start} + {num_samples} of {len(wav)} samples"
    middles = start + np.arange(model.num_frames(num_samples)) * model.hop_samples + model.receptive_field_samples / 2
    label_middles = clock.middles(len(labels))
    nearest = np.searchsorted((label_middles[1:] + label_middles[:-1]) / 2, middles)
    return wav[start : start + num_samples], labels[nearest].astype(np.int64)


def mask_spans(
    num_clips: int, num_frames: int, share: float, span_frames: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Draws which frames to mask, [num_clips, num_frames]: spans that may overlap, equally many frames in each row.

    Like fairseq's compute_mask_indices (static lengths): `share * num_frames / span_frames` spans, rounded up or down
    at random, with different starts; then masked frames are dropped until all rows have as many as the one with fewest.
    """
    assert num_frames > span_frames, f"a span of {span_frames} masked frames in {num_frames}"
    num_spans = max(MIN_MASK_SPANS, int(share * num_frames / span_frames + generator.random()))
    num_starts = num_frames - span_frames + 1
    is_masked = np.zeros((num_clips, num_frames), np.bool_)
    for row in is_masked:
        starts = generator.choice(num_starts, min(num_spans, num_starts), replace=False)
        row[(starts[:, None] + np.arange(span_frames)).ravel()] = True
    fewest = int(is_masked.sum(axis=1).min())
    for row in is_masked:
        masked = np.flatnonzero(row)
        row[generator.choice(masked, len(masked) - fewest, replace=False)] = False
    return is_masked
