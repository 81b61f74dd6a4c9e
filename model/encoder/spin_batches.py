"""Batches of crops in two views, to tune a HuBERT on; each depends only on seed and step.

1. Each corpus has its own endless stream of clips, in an order drawn anew each epoch, and an equal share of each batch.
2. Rank `r` of `W` takes the r-th of W equal slices of each corpus' share.
3. The start of each crop, its perturbation and the quiet frames that count are drawn from (seed, step, place).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from model.encoder.level import at_level
from model.encoder.perturb import perturb
from model.encoder.spin import QUIET_DB
from model.training.step_batches import draw_order, endless_order
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.encoder.hubert_config import HubertConfig
    from model.encoder.spin_config import SpinConfig

TRAIN, VALIDATION = 1, 2  # so that both draw differently


class SpokenClips(Protocol):
    """Speech to tune on."""

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Length of each clip at 16 kHz, [N]."""
        ...

    @property
    def corpora(self) -> NDArray[np.int64]:
        """The number of each clip's corpus, [N]."""
        ...

    @property
    def phone_sets(self) -> NDArray[np.bool_]:
        """Which phones each corpus has, [C, P]; P is 0 if no clip has any."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the clips and their phones."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """wav [S] at 16 kHz of one clip."""
        ...

    def phones_at(self, index: int, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """The number of the phone at each time since the clip's start, NO_PHONE where none is known."""
        ...


class Views(NamedTuple):
    """Crops in two views; see Spin.forward."""

    clean: Tensor
    perturbed: Tensor
    phones: Tensor
    corpora: Tensor
    counts: Tensor


@dataclass(frozen=True)
class SpinBatch:
    """One rank's part of one step.

    Attributes:
        index: Number of the step, from 0.
        views: This rank's crops.
        num_samples: Samples of audio in the step, over all ranks and without the second views.
    """

    index: int
    views: Views
    num_samples: int


class SpinBatches(torch.utils.data.Dataset[SpinBatch]):
    """Maps a step, counted from 0, to its batch for one rank.

    Raises:
        TwistError: the batch cannot be parted evenly, or a corpus has no clip as long as a crop.
    """

    def __init__(
        self, clips: SpokenClips, config: SpinConfig, model: HubertConfig, rank: int = 0, world_size: int = 1
    ) -> None:
        self._clips = clips
        self._config = config
        self._model = model
        self._of_corpus = long_enough(clips, config, model)
        num_parts = len(self._of_corpus) * world_size
        if config.batch_size % num_parts:
            raise TwistError(
                f"spin.batch_size {config.batch_size} cannot be parted evenly among {len(self._of_corpus)} corpora and "
                f"{world_size} processes; make it a multiple of {num_parts}"
            )
        self._share = config.batch_size // len(self._of_corpus)
        self._mine = slice(rank * self._share // world_size, (rank + 1) * self._share // world_size)

    def __getitem__(self, index: int) -> SpinBatch:
        start, stop = index * self._share, (index + 1) * self._share
        rows, places = [], []
        for corpus, of_corpus in enumerate(self._of_corpus):
            order = endless_order(self._config.seed + corpus, start, stop, len(of_corpus))
            rows += of_corpus[order][self._mine].tolist()
            places += (corpus * self._share + np.arange(self._share))[self._mine].tolist()
        generators = [np.random.default_rng([self._config.seed, TRAIN, index, place]) for place in places]
        num_samples = crop_samples(self._config) * self._config.batch_size
        return SpinBatch(index, views(self._clips, rows, self._config, self._model, generators), num_samples)

    @property
    def num_clips(self) -> int:
        """Number of clips that are long enough."""
        return sum(map(len, self._of_corpus))

    @property
    def num_samples(self) -> int:
        """Samples in all of these clips together."""
        return int(self._clips.num_samples[np.concatenate(self._of_corpus)].sum())


def validation_views(
    clips: SpokenClips, config: SpinConfig, model: HubertConfig, rank: int = 0, world_size: int = 1
) -> list[Views]:
    """This rank's validation batches, the same each time: clips drawn from those of all corpora.

    Raises:
        TwistError: a corpus has no clip as long as a crop.
    """
    usable = np.concatenate(long_enough(clips, config, model))
    usable = usable[draw_order([config.seed, VALIDATION], len(usable))[: config.validation_clips]]
    batches = [usable[first : first + config.batch_size] for first in range(0, len(usable), config.batch_size)]
    return [
        views(clips, rows.tolist(), config, model, [np.random.default_rng([config.seed, VALIDATION, r]) for r in rows])
        for rows in batches[rank::world_size]
    ]


def long_enough(clips: SpokenClips, config: SpinConfig, model: HubertConfig) -> list[NDArray[np.int64]]:
    """The clips of each corpus that hold a crop.

    Raises:
        TwistError: a corpus has none, or a crop holds no frame.
    """
    if crop_samples(config) < model.receptive_field_samples:
        raise TwistError(f"spin.crop_s {config.crop_s:g} is shorter than a frame of the model")
    of_corpus = []
    for corpus in np.unique(clips.corpora):
        usable = np.flatnonzero((clips.corpora == corpus) & (clips.num_samples >= crop_samples(config)))
        if not len(usable):
            raise TwistError(
                f"spin: a corpus has no clip of {config.crop_s:g} s for training or for validation; lower spin.crop_s, "
                f"or give longer or more recordings"
            )
        of_corpus.append(usable)
    return of_corpus


def crop_samples(config: SpinConfig) -> int:
    """Samples in a crop."""
    return round(config.crop_s * SAMPLE_RATE_HZ)


def views(
    clips: SpokenClips,
    rows: Sequence[int],
    config: SpinConfig,
    model: HubertConfig,
    generators: Sequence[np.random.Generator],
) -> Views:
    """A crop of each of these clips, in two views."""
    num_samples = crop_samples(config)
    num_frames = model.num_frames(num_samples)
    middles = np.arange(num_frames) * model.hop_samples + model.receptive_field_samples / 2
    clean, perturbed, phones, counts = [], [], [], []
    for row, generator in zip(rows, generators, strict=True):
        wav = clips[row]
        start = int(generator.random() * (len(wav) - num_samples + 1))
        crop = wav[start : start + num_samples]
        clean.append(at_level(torch.from_numpy(crop.copy()), config.level_dbfs))
        perturbed.append(at_level(torch.from_numpy(perturb(crop, generator)), config.level_dbfs))
        phones.append(clips.phones_at(row, (start + middles) / SAMPLE_RATE_HZ))
        is_drawn = generator.random(num_frames) < config.silence_share
        counts.append(is_loud(crop, num_frames, model) | is_drawn)
    return Views(
        torch.stack(clean),
        torch.stack(perturbed),
        torch.from_numpy(np.stack(phones)),
        torch.from_numpy(clips.corpora[rows]),
        torch.from_numpy(np.stack(counts)),
    )


def is_loud(wav: NDArray[np.float32], num_frames: int, model: HubertConfig) -> NDArray[np.bool_]:
    """Which frames of a wav [S] are at most QUIET_DB below its loudest one, [F]."""
    of_frame = np.lib.stride_tricks.sliding_window_view(wav, model.receptive_field_samples)[:: model.hop_samples]
    power = np.square(of_frame[:num_frames], dtype=np.float64).mean(axis=1)
    loud: NDArray[np.bool_] = power >= power.max() * 10 ** (QUIET_DB / 10)
    return loud
