"""Many contours, as one array; and batches of crops of them, which depend on seed and step alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.pitch.contour import Contour, features_of
from model.training.step_batches import draw_order, endless_order, require_even_parts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

    from model.pitch.train_config import PitchTrainConfig


@dataclass(frozen=True)
class Contours:
    """The contours of clips, one behind the other.

    Attributes:
        f0: [sum of T] in Hz; 0: none.
        is_voiced: [sum of T].
        offsets: [N + 1] clip i is at offsets[i] to offsets[i + 1].
        fingerprint: Identifies the clips and how their pitch was found.
    """

    f0: NDArray[np.float32]
    is_voiced: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    fingerprint: str

    @classmethod
    def of(cls, contours: Sequence[Contour], fingerprint: str) -> Self:
        """Joins contours."""
        f0 = [np.zeros(0, np.float32), *(one.f0 for one in contours)]
        is_voiced = [np.zeros(0, np.bool_), *(one.is_voiced for one in contours)]
        offsets = np.cumsum([0, *map(len, contours)]).astype(np.int64)
        return cls(np.concatenate(f0), np.concatenate(is_voiced), offsets, fingerprint)

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """The length of each contour, [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Contour:
        start, stop = self.offsets[index : index + 2]
        return Contour(self.f0[start:stop], self.is_voiced[start:stop])


@dataclass(frozen=True)
class PitchBatch:
    """One rank's part of step `index`: features [B, 2, T] of crops."""

    index: int
    features: Tensor


class PitchBatches:
    """Maps a step, counted from 0, to its batch for one rank. A crop has lost the mean of its whole clip.

    Raises:
        TwistError: the batch cannot be divided evenly, or no contour is as long as a crop.
    """

    def __init__(self, contours: Contours, config: PitchTrainConfig, rank: int = 0, world_size: int = 1) -> None:
        require_even_parts("train_pitch.batch_size", config.batch_size, world_size)
        self._contours, self._config = contours, config
        self._rank, self._world_size = rank, world_size
        self._usable = np.flatnonzero(contours.num_frames >= config.crop_frames)
        if not len(self._usable):
            raise TwistError(f"train_pitch: no clip is as long as crop_frames ({config.crop_frames}); lower it")

    @property
    def num_clips(self) -> int:
        """Number of clips that are long enough to train on."""
        return len(self._usable)

    def __getitem__(self, index: int) -> PitchBatch:
        config = self._config
        size = config.batch_size
        clips = self._usable[endless_order(config.seed, index * size, (index + 1) * size, len(self._usable))]
        start_fractions = np.random.default_rng([config.seed, index]).random(size)
        crops = []
        for row in np.arange(size).reshape(self._world_size, -1)[self._rank]:
            features = features_of(self._contours[int(clips[row])], config.model.features)
            start = int(start_fractions[row] * (features.shape[1] - config.crop_frames + 1))
            crops.append(torch.from_numpy(features[:, start : start + config.crop_frames]))
        return PitchBatch(index, torch.stack(crops))


def validation_contours(contours: Contours, config: PitchTrainConfig) -> list[Contour]:
    """The contours to validate on, the same each time, cut to whole codes.

    Raises:
        TwistError: no contour is as long as a code.
    """
    multiple = config.model.frames_per_code
    usable = np.flatnonzero(contours.num_frames >= multiple)
    if not len(usable):
        raise TwistError("train_pitch: no clip was kept for validation; give more speech or validation_share")
    drawn = usable[draw_order([config.seed, 1], len(usable))[: config.validation_clips]]
    whole = (contours[int(index)] for index in drawn)
    return [
        Contour(one.f0[: len(one) // multiple * multiple], one.is_voiced[: len(one) // multiple * multiple])
        for one in whole
    ]
