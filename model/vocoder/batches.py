"""Batches of clips with their units, to train a vocoder on; each depends only on seed and step.

A step's clips come from an endless stream of shuffled epochs; rank `r` of `W` takes the r-th of W equal slices. The
vocoder generates a crop of each clip, whose start is drawn from (seed, step); durations are learned from the whole
clip, since a crop would shorten those at its ends. Codes of pitch and style are those of the crop's frames.

The encoder computed frame `f` from samples f * hop to f * hop + receptive field; the vocoder generates samples f * hop
to (f + 1) * hop from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.encoder.pretrain_batches import LabelledClips
from model.training.step_batches import draw_order, endless_order, require_even_parts
from model.vocoder.codes import codes_of_frames
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from model.vocoder.config import VocoderConfig
    from model.vocoder.melody import Melody
    from model.vocoder.train_config import VocoderTrainConfig


@dataclass(frozen=True)
class CodeFacts:
    """The codes of a model of pitch or style: how many a second, how many there are, and the model's fingerprint."""

    rate_hz: float
    num_codes: int
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Conditions:
    """What is known of a clip beside its units: codes of `pitch` and `style` [P] at their rates, and who speaks.

    `f0_mean_hz` is what codes of pitch are relative to, for a vocoder with a source; None where nothing is voiced.
    """

    codes: Mapping[str, NDArray[np.uint16]]
    speaker: int | None = None
    f0_mean_hz: float | None = None


class VoiceClips(LabelledClips, Protocol):
    """Labelled clips that may tell, too, their codes of pitch and style, and who speaks."""

    @property
    def codes(self) -> Mapping[str, CodeFacts]:
        """Which codes each clip has: of `pitch`, of `style`."""
        ...

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of the speakers, by number; empty where clips do not tell theirs."""
        ...

    @property
    def melody(self) -> Melody | None:
        """What codes of pitch say, for a vocoder with a source."""
        ...

    def conditions(self, index: int) -> Conditions:
        """What is known of one clip."""
        ...


@dataclass(frozen=True)
class VocoderBatch:
    """One rank's part of one step.

    Attributes:
        index: Number of the step, from 0.
        wav: [B, F * hop].
        frames: The unit of each frame of `wav`, [B, F].
        units: Units of the whole clips without repeats, [B, N], padded with 0.
        durations: Duration of each of these in frames, [B, N]; 0 in padding.
        unit_pitch: Code of pitch at the middle of each of these, [B, N]; 0 where clips have none.
        conditions: What else `Vocoder.forward` takes: pitch_codes and style_codes [B, F], f0_hz [B, F, K], speaker [B].
    """

    index: int
    wav: Tensor
    frames: Tensor
    units: Tensor
    durations: Tensor
    unit_pitch: Tensor
    conditions: dict[str, Tensor]


class ValidationClip(NamedTuple):
    """A whole clip: wav [S], the unit of each of its S / hop frames, and units, their durations and codes of pitch [N].

    `conditions` are those of VocoderBatch, without the batch.
    """

    wav: Tensor
    frames: Tensor
    units: Tensor
    durations: Tensor
    unit_pitch: Tensor
    conditions: dict[str, Tensor]


# The settings of VocoderConfig for codes: their number, and the samples that one lasts.
CODE_SETTINGS: dict[str, Sequence[str]] = {
    "pitch": ("num_f0_tokens", "f0_hop_size"),
    "style": ("num_style_tokens", "style_hop_size"),
}
# Of codes a second: SpiRit-LM's encoders say 12.5 and 1, and give a little less.
RATE_TOLERANCE = 0.02


class VocoderBatches:
    """Maps a step, counted from 0, to its batch for one rank.

    Raises:
        TwistError: the batch cannot be divided evenly, no clip is as long as a crop, or clips and vocoder differ in the
            number or the rate of units or codes, or in the number of speakers.
    """

    def __init__(self, clips: VoiceClips, config: VocoderTrainConfig, rank: int = 0, world_size: int = 1) -> None:
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
        wavs, frames, units, durations, unit_pitch, conditions = [], [], [], [], [], []
        for row in mine:
            clip = whole_clip(self._clips, int(indices[row]), config.model)
            start = int(start_fractions[row] * (len(clip.frames) - config.crop_frames + 1))
            stop = start + config.crop_frames
            wavs.append(clip.wav[start * self._hop : stop * self._hop])
            frames.append(clip.frames[start:stop])
            units.append(clip.units)
            durations.append(clip.durations)
            unit_pitch.append(clip.unit_pitch)
            conditions.append(
                {name: value if name == "speaker" else value[start:stop] for name, value in clip.conditions.items()}
            )
        return VocoderBatch(
            index,
            torch.stack(wavs),
            torch.stack(frames),
            pad_sequence(units, batch_first=True),
            pad_sequence(durations, batch_first=True),
            pad_sequence(unit_pitch, batch_first=True),
            {name: torch.stack([each[name] for each in conditions]) for name in conditions[0]},
        )


def validation_clips(clips: VoiceClips, config: VocoderTrainConfig) -> list[ValidationClip]:
    """The whole clips to validate on, the same each time: `validation_clips` drawn from those long enough.

    Raises:
        TwistError: no clip is long enough.
    """
    hop = config.model.hop_samples
    usable = np.flatnonzero(clips.num_samples >= config.crop_frames * hop)
    if len(usable) == 0:
        raise TwistError("vocoder: no clip was kept for validation; give more recordings or validation_share")
    drawn = usable[draw_order([config.seed, 1], len(usable))[: config.validation_clips]]
    return [whole_clip(clips, int(index), config.model) for index in drawn]


def whole_clip(clips: VoiceClips, index: int, model: VocoderConfig) -> ValidationClip:
    """A clip cut to whole frames: its last samples, which have no frame of their own, are left out.

    Raises:
        TwistError: it can no longer be read, or its codes are not its own.
    """
    wav, labels = clips[index]
    hop = model.hop_samples
    num_frames = min(len(wav) // hop, len(labels))
    frames = torch.from_numpy(labels[:num_frames].astype(np.int64))
    units, durations = torch.unique_consecutive(frames, return_counts=True)
    conditions = _conditions(clips, index, model, num_frames)
    of_frames = conditions.get("pitch_codes", torch.zeros_like(frames))
    return ValidationClip(
        torch.from_numpy(wav[: num_frames * hop]),
        frames,
        units,
        durations,
        of_frames[durations.cumsum(0) - 1 - durations // 2],
        conditions,
    )


def _conditions(clips: VoiceClips, index: int, model: VocoderConfig, num_frames: int) -> dict[str, Tensor]:
    if not (model.num_codes or model.multispkr):
        return {}
    told = clips.conditions(index)
    conditions = {
        f"{name}_codes": torch.from_numpy(codes_of_frames(told.codes[name], frames_per_code, num_frames, name))
        for name, frames_per_code in model.frames_per_code.items()
    }
    if model.source_harmonics:
        assert clips.melody is not None, "clips of a vocoder with a source tell its melody"
        # Where no mean is known nothing is voiced, or it should not be.
        mean_hz = told.f0_mean_hz or clips.melody.means_hz[told.speaker or 0]
        f0_hz = clips.melody.f0_hz(conditions["pitch_codes"].numpy(), model.frames_per_code["pitch"], mean_hz)
        conditions["f0_hz"] = torch.from_numpy(f0_hz)
    if model.multispkr:
        assert told.speaker is not None, "clips of a vocoder of several speakers tell theirs"
        conditions["speaker"] = torch.tensor(told.speaker)
    return conditions


def require_fit(clips: VoiceClips, config: VocoderTrainConfig) -> None:
    """Checks that the clips' units and codes are of the number and rate that the vocoder is for, and that it knows who
    speaks.

    Raises:
        TwistError: a number or a rate differs, or clips lack what the vocoder takes.
    """
    model = config.model
    for name, num_codes in model.num_codes.items():
        facts = clips.codes.get(name)
        setting, hop_setting = CODE_SETTINGS[name]
        if facts is None:
            raise TwistError(
                f"vocoder.model.{setting} is {num_codes}, but the run has no codes of {name}; run `twist {name}` on "
                f"it, or set it to null"
            )
        if facts.num_codes != num_codes:
            raise TwistError(
                f"vocoder.model.{setting} is {num_codes}, but the run has {facts.num_codes} codes of {name}"
            )
        hop = model.samples_per_code[name]
        if abs(facts.rate_hz * hop / model.sampling_rate - 1) > RATE_TOLERANCE:
            raise TwistError(
                f"vocoder.model.{hop_setting} is {hop}, but the run has {facts.rate_hz:g} codes of {name} a second: "
                f"make it {round(model.sampling_rate / facts.rate_hz)}"
            )
    if model.source_harmonics:
        assert clips.melody is not None, "clips of a vocoder with a source tell its melody"
        clips.melody.require_fit(model)
    if model.multispkr and not 1 <= len(clips.speakers) <= model.num_speakers:
        raise TwistError(
            f"vocoder.model.num_speakers is {model.num_speakers}, but the run has {len(clips.speakers)} that are known "
            f"by name" + ("" if clips.speakers else ": without them, leave multispkr out")
        )
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
