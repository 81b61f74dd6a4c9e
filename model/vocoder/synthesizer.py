"""Synthesizes utterances of any lengths: one by one on the CPU, in batches on a GPU.

As with HuBERT (model/encoder/hubert_batches.py), only many utterances at once keep a GPU busy. Utterances of similar
length share a batch, and their audio does not depend on it except for rounding. The CPU gains nothing from batches.
There a long utterance is streamed in chunks, which bounds memory; a short one is faster in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from model.vocoder.codes import codes_of_frames
from model.vocoder.stream import VocoderStream
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from model.vocoder.melody import Melody
    from model.vocoder.vocoder import Vocoder

# Eleven minutes at 25 Hz: the widest layer of a full-size vocoder takes a few GiB.
FRAMES_PER_BATCH_ON_GPU = 16_384
# Half a minute at 25 Hz.
FRAMES_PER_CHUNK_ON_CPU = 750


@dataclass(frozen=True)
class Utterance:
    """Units to speak, and whatever else the vocoder takes.

    Attributes:
        units: [n].
        durations: Duration of each unit in frames, [n]; None: the vocoder predicts them.
        speaker: A number, or a vector [embedder_dim], if the vocoder takes a speaker.
        style: A number, if it takes a style.
        f0: Pitch [F0], if it takes pitch (see Vocoder.forward); needs durations.
        pitch_codes, style_codes: If it takes codes: at their own rates [P] where there are durations, else one for each
            unit [n], which lasts as long as it. A vocoder that predicts those of pitch does so where there are none.
    """

    units: NDArray[np.uint16]
    durations: NDArray[np.uint16] | None = None
    speaker: int | NDArray[np.float32] | None = None
    style: int | None = None
    f0: NDArray[np.float32] | NDArray[np.int64] | None = None
    pitch_codes: NDArray[np.uint16] | None = None
    style_codes: NDArray[np.uint16] | None = None

    @property
    def codes(self) -> dict[str, NDArray[np.uint16]]:
        """The codes that it has, by `pitch` and `style`."""
        given = {"pitch": self.pitch_codes, "style": self.style_codes}
        return {name: codes for name, codes in given.items() if codes is not None}

    def __post_init__(self) -> None:
        if self.durations is not None:
            if len(self.durations) != len(self.units):
                raise TwistError(f"there are {len(self.durations)} durations for {len(self.units)} units")
            if len(self.durations) and int(self.durations.min()) < 1:
                raise TwistError("a unit lasts at least one frame, but a duration is 0")
        for name, codes in self.codes.items():
            if self.durations is None and len(codes) != len(self.units):
                raise TwistError(
                    f"there are {len(codes)} codes of {name} for {len(self.units)} units without durations; give one "
                    f"for each unit, or durations with codes at their own rate"
                )


class Synthesizer:
    """Runs a vocoder over utterances.

    Args:
        vocoder: Ready for inference, on its device.
        frames_per_batch: Most frames in a batch, padding included; None: `FRAMES_PER_BATCH_ON_GPU` on a GPU, each
            utterance alone on the CPU.
        melody: What codes of pitch say, for a vocoder with a source.
    """

    def __init__(self, vocoder: Vocoder, frames_per_batch: int | None = None, melody: Melody | None = None) -> None:
        self._vocoder = vocoder
        self._melody = melody
        self._device = vocoder.dict.weight.device
        if frames_per_batch is None and self._device.type == "cuda":
            frames_per_batch = FRAMES_PER_BATCH_ON_GPU
        self._frames_per_batch = frames_per_batch

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second of the audio."""
        return self._vocoder.config.sampling_rate

    @property
    def num_codes(self) -> dict[str, int]:
        """How many codes of `pitch` and `style` the vocoder takes, of those that it takes."""
        return self._vocoder.config.num_codes

    @property
    def frames_per_code(self) -> dict[str, int]:
        """How many frames a code of `pitch` and `style` lasts, of those that the vocoder takes."""
        return self._vocoder.config.frames_per_code

    @property
    def needed_codes(self) -> tuple[str, ...]:
        """Those of `pitch` and `style` that the vocoder takes and does not predict."""
        return self._vocoder.config.needed_codes

    @property
    def num_units(self) -> int:
        """Number of different units that the vocoder speaks."""
        return self._vocoder.config.num_embeddings

    @torch.inference_mode()
    def __call__(self, utterances: Sequence[Utterance]) -> list[NDArray[np.float32]]:
        """The audio of each utterance, [S] at the vocoder's rate.

        Raises:
            TwistError: a unit, speaker or style is not one of the vocoder's, or an input is missing or not wanted.
        """
        for utterance in utterances:
            self._check(utterance)
        if self._frames_per_batch is None:
            return [self._alone(utterance) for utterance in utterances]
        durations = self._durations(utterances)
        frames = self._frames(utterances, durations)
        codes = self._codes(utterances, durations)
        lengths = [len(each) for each in frames]
        takes_pitch = [utterance.f0 is not None for utterance in utterances]
        wavs: dict[int, NDArray[np.float32]] = {}
        for batch in _batches(lengths, self._frames_per_batch, takes_pitch):
            given = [utterances[index] for index in batch]
            padded = pad_sequence([frames[index] for index in batch], batch_first=True)
            num_frames = torch.tensor([lengths[index] for index in batch], device=self._device)
            of_frames = self._padded([codes[index] for index in batch])
            made = self._vocoder(padded, num_frames, **self._conditions(given), **of_frames)
            samples_per_frame = made.shape[1] // max(padded.shape[1], 1)
            for index, row in zip(batch, made.float().cpu().numpy(), strict=True):
                wavs[index] = row[: lengths[index] * samples_per_frame]
        return [wavs.get(index, np.zeros(0, np.float32)) for index in range(len(utterances))]

    def durations(self, units: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Predicted duration of each of units [n], in frames.

        Raises:
            TwistError: the vocoder predicts none, or a unit is not one of the vocoder's.
        """
        self._check_units(units)
        with torch.inference_mode():
            durations = self._vocoder.durations(self._tensor(units)[None])[0]
        return durations.cpu().numpy().astype(np.uint16)

    def _alone(self, utterance: Utterance) -> NDArray[np.float32]:
        if not len(utterance.units):
            return np.zeros(0, np.float32)
        durations = self._durations([utterance])
        (frames,) = self._frames([utterance], durations)
        conditions, (of_frames,) = self._conditions([utterance]), self._codes([utterance], durations)
        if utterance.f0 is not None or len(frames) <= FRAMES_PER_CHUNK_ON_CPU:
            conditions |= self._padded([of_frames])
            wav: NDArray[np.float32] = self._vocoder(frames[None], **conditions)[0].float().cpu().numpy()
            return wav
        stream = VocoderStream(self._vocoder, **{name: value[0] for name, value in conditions.items()})
        pieces = []
        for start in range(0, len(frames), FRAMES_PER_CHUNK_ON_CPU):
            chunk = slice(start, start + FRAMES_PER_CHUNK_ON_CPU)
            units = frames[chunk].cpu().numpy().astype(np.uint16)
            codes = {name: value[chunk] for name, value in of_frames.items()}
            pieces.append(stream.push(units, np.ones(len(units), np.uint16), codes))
        return np.concatenate([*pieces, stream.finish()])

    def _durations(self, utterances: Sequence[Utterance]) -> list[Tensor]:
        """How many frames each unit of each utterance lasts, [n]; missing durations are predicted in one batch."""
        durations = [
            self._tensor(np.zeros(0, np.uint16) if utterance.durations is None else utterance.durations)
            for utterance in utterances
        ]
        unsaid = [i for i, utterance in enumerate(utterances) if utterance.durations is None and len(utterance.units)]
        if unsaid:
            units = [self._tensor(utterances[i].units) for i in unsaid]
            num_units = torch.tensor([len(each) for each in units], device=self._device)
            padded = pad_sequence(units, batch_first=True)
            for i, each, predicted in zip(unsaid, units, self._vocoder.durations(padded, num_units), strict=True):
                durations[i] = predicted[: len(each)]
        return durations

    def _frames(self, utterances: Sequence[Utterance], durations: Sequence[Tensor]) -> list[Tensor]:
        """The unit of each frame of each utterance, [F]."""
        return [
            self._tensor(utterance.units).repeat_interleave(each)
            for utterance, each in zip(utterances, durations, strict=True)
        ]

    def _codes(self, utterances: Sequence[Utterance], durations: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Codes of pitch and style of each frame [F], and F0 [F, K], by the names that Vocoder.forward has for them."""
        predicted = self._predicted_pitch(utterances)
        return [
            self._codes_of(utterance, predicted.get(index), durations[index])
            for index, utterance in enumerate(utterances)
        ]

    def _predicted_pitch(self, utterances: Sequence[Utterance]) -> dict[int, Tensor]:
        """The code of pitch of each unit [n] of the utterances that need it, by their places; made in one batch."""
        if not self._vocoder.config.predicts_pitch:
            return {}
        units = {i: self._tensor(one.units) for i, one in enumerate(utterances) if one.pitch_codes is None}
        num_units = torch.tensor([len(each) for each in units.values()], device=self._device)
        if not num_units.any():
            return units  # no unit, no code
        codes = self._vocoder.pitch_scores(pad_sequence(list(units.values()), batch_first=True), num_units).argmax(-1)
        return {i: row[: len(each)] for (i, each), row in zip(units.items(), codes, strict=True)}

    def _codes_of(self, utterance: Utterance, unit_pitch: Tensor | None, durations: Tensor) -> dict[str, Tensor]:
        num_frames = int(durations.sum())
        found = {}
        if unit_pitch is not None:
            found["pitch_codes"] = unit_pitch.repeat_interleave(durations)
        for name, codes in utterance.codes.items():
            if utterance.durations is None:
                of_frames = self._tensor(codes).repeat_interleave(durations)
            else:
                frames_per_code = self._vocoder.config.frames_per_code[name]
                of_frames = torch.from_numpy(codes_of_frames(codes, frames_per_code, num_frames, name)).to(self._device)
            found[f"{name}_codes"] = of_frames
        if self._melody is not None:
            assert not isinstance(utterance.speaker, np.ndarray), "a vocoder with a source numbers its speakers"
            mean_hz = self._melody.means_hz[utterance.speaker or 0]
            codes = found["pitch_codes"].cpu().numpy()
            f0_hz = self._melody.f0_hz(codes, self._vocoder.config.frames_per_code["pitch"], mean_hz)
            found["f0_hz"] = torch.from_numpy(f0_hz).to(self._device)
        return found

    @staticmethod
    def _padded(codes: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The codes of a batch [B, F], and F0 [B, F, K]."""
        return {name: pad_sequence([each[name] for each in codes], batch_first=True) for name in codes[0]}

    def _conditions(self, utterances: Sequence[Utterance]) -> dict[str, Tensor]:
        """Speakers, styles and pitches of a batch, as Vocoder.forward takes them; utterances with pitch come alone."""
        conditions: dict[str, Tensor] = {}
        if utterances[0].speaker is not None:
            speakers = np.stack([np.asarray(utterance.speaker) for utterance in utterances])
            conditions["speaker"] = torch.from_numpy(speakers).to(self._device)
        if utterances[0].style is not None:
            conditions["style"] = torch.tensor([utterance.style for utterance in utterances], device=self._device)
        if utterances[0].f0 is not None:
            conditions["f0"] = torch.from_numpy(np.stack([utterances[0].f0])).to(self._device)
        return conditions

    def _check(self, utterance: Utterance) -> None:
        config = self._vocoder.config
        self._check_units(utterance.units)
        for name, number, count in (
            ("speaker", utterance.speaker, config.num_speakers),
            ("style", utterance.style, config.num_styles),
        ):
            if isinstance(number, int) and not 0 <= number < count:
                raise TwistError(f"there is no {name} {number}; this vocoder has 0 to {count - 1}")
        for name, value, is_taken in (
            ("speaker", utterance.speaker, bool(config.multispkr)),
            ("style", utterance.style, bool(config.multistyle)),
            ("f0", utterance.f0, config.takes_f0),
            ("pitch_codes", utterance.pitch_codes, bool(config.num_f0_tokens)),
            ("style_codes", utterance.style_codes, bool(config.num_style_tokens)),
        ):
            is_predicted = name == "pitch_codes" and bool(config.predicts_pitch) and value is None
            if is_taken != (value is not None) and not is_predicted:
                raise TwistError(f"this vocoder {'needs a' if is_taken else 'takes no'} {name}")
        for name, codes in utterance.codes.items():
            count = config.num_codes[name]
            if len(codes) and int(codes.max()) >= count:
                raise TwistError(f"code {int(codes.max())} of {name} is not one of the {count} that this vocoder takes")
        if utterance.f0 is not None and utterance.durations is None:
            raise TwistError("pitch is given per frame: durations of units must be given with it")

    def _check_units(self, units: NDArray[np.uint16]) -> None:
        num_units = self._vocoder.config.num_embeddings
        if len(units) and int(units.max()) >= num_units:
            raise TwistError(f"unit {int(units.max())} is not one of the {num_units} that this vocoder speaks")

    def _tensor(self, values: NDArray[np.uint16]) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self._device)


def _batches(lengths: Sequence[int], frames_per_batch: int, is_alone: Sequence[bool]) -> list[list[int]]:
    """Indices of the utterances of each batch, longest first; empty ones are left out."""
    by_length = sorted((index for index, length in enumerate(lengths) if length), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in by_length:
        fits = batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= frames_per_batch
        if fits and not is_alone[index] and not is_alone[batches[-1][0]]:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
