"""Batches of clips with their units, to train a vocoder on; each depends only on seed and step.

A step's clips come from an endless stream of shuffled epochs; rank `r` of `W` takes the r-th of W equal slices. The
vocoder generates a crop of each clip, whose start is drawn from (seed, step); durations are learned from the whole
clip, since a crop would shorten those at its ends.

The encoder computed frame `f` from samples f * hop to f * hop + receptive field; the vocoder generates samples f * hop
to (f + 1) * hop from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.training.step_batches import draw_order, endless_order, require_even_parts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.encoder.pretrain_batches import LabelledClips
    from model.vocoder.train_config import VocoderTrainConfig


@dataclass(frozen=True)
class VocoderBatch:
    """One rank's part of one step.

    Attributes:
        index: Number of the step, from 0.
        wav: [B, F * hop].
        frames: The unit of each frame of `wav`, [B, F].
        units: Units of the whole clips without repeats, [B, N], padded with 0.
        durations: Duration of each of these in frames, [B, N]; 0 in padding.
    """

    index: int
    wav: Tensor
    frames: Tensor
    units: Tensor
    durations: Tensor


class ValidationClip(NamedTuple):
    """A whole clip: wav [S], the unit of each of its S / hop frames, and units [N] with durations [N]."""

    wav: Tensor
    frames: Tensor
    units: Tensor
    durations: Tensor


class VocoderBatches:
    """Maps a step, counted from 0, to its batch for one rank.

    Raises:
        TwistError: the batch cannot be divided evenly, no clip is as long as a crop, or clips and vocoder differ in the
            number or the rate of units.
    """

    def __init__(self, clips: LabelledClips, config: VocoderTrainConfig, rank: int = 0, world_size: int = 1) -> None:
        require_even_parts("vocoder.batch_size", config.batch_size, world_size)
        require_fit(clips, config)
        self._clips = clips
        self._config = config
        self._rank = rank
        self._world_size = world_size
        self._hop = config.model.hop_samples
        self._usable = np.flatnonzero(clips.num_samples >= config.crop_frames * self._hop)
        if len(self._usable) == 0:
            raise TwistError(f"vocoder: no clip is as long as crop_frames ({config.crop_frames}); lower it")

    @property
    def num_clips(self) -> int:
        """Number of clips that are long enough to train on."""
        return len(self._usable)

    @property
    def num_samples(self) -> int:
        """Samples in all of these clips together."""
        return int(self._clips.num_samples[self._usable].sum())

    def __getitem__(self, index: int) -> VocoderBatch:
        config = self._config
        size = config.batch_size
        indices = self._usable[endless_order(config.seed, index * size, (index + 1) * size, len(self._usable))]
        start_fractions = np.random.default_rng([config.seed, index]).random(size)
        mine = np.arange(size).reshape(self._world_size, -1)[self._rank]
        wavs, frames, units, durations = [], [], [], []
        for row in mine:
            clip = whole_clip(*self._clips[int(indices[row])], self._hop)
            start = int(start_fractions[row] * (len(clip.frames) - config.crop_frames + 1))
            stop = start + config.crop_frames
            wavs.append(clip.wav[start * self._hop : stop * self._hop])
            frames.append(clip.frames[start:stop])
            units.append(clip.units)
            durations.append(clip.durations)
        return VocoderBatch(
            index,
            torch.stack(wavs),
            torch.stack(frames),
            pad_sequence(units, batch_first=True),
            pad_sequence(durations, batch_first=True),
        )


def validation_clips(clips: LabelledClips, config: VocoderTrainConfig) -> list[ValidationClip]:
    """The whole clips to validate on, the same each time: `validation_clips` drawn from those long enough.

    Raises:
        TwistError: no clip is long enough.
    """
    hop = config.model.hop_samples
    usable = np.flatnonzero(clips.num_samples >= config.crop_frames * hop)
    if len(usable) == 0:
        raise TwistError("vocoder: no clip was kept for validation; give more recordings or validation_share")
    drawn = usable[draw_order([config.seed, 1], len(usable))[: config.validation_clips]]
    return [whole_clip(*clips[int(index)], hop) for index in drawn]


def whole_clip(wav: NDArray[np.float32], labels: NDArray[np.uint16], hop: int) -> ValidationClip:
    """A clip cut to whole frames: its last samples, which have no frame of their own, are left out."""
    num_frames = min(len(wav) // hop, len(labels))
    frames = torch.from_numpy(labels[:num_frames].astype(np.int64))
    units, durations = torch.unique_consecutive(frames, return_counts=True)
    return ValidationClip(torch.from_numpy(wav[: num_frames * hop]), frames, units, durations)


def require_fit(clips: LabelledClips, config: VocoderTrainConfig) -> None:
    """Checks that the clips' units are of the number and rate that the vocoder is for.

    Raises:
        TwistError: their number or their rate differs.
    """
    if clips.codebook_size != config.model.num_embeddings:
        raise TwistError(
            f"vocoder.model.num_embeddings is {config.model.num_embeddings}, but the run has "
            f"{clips.codebook_size} units"
        )
    if clips.clock.hop_samples != config.model.hop_samples:
        raise TwistError(
            f"vocoder.model.upsample_rates make {config.model.hop_samples} samples of a frame, but the run's frames "
            f"are {clips.clock.hop_samples} samples apart"
        )
