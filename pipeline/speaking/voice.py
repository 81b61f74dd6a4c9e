"""Units in, audio out: the voice of a name, a vocoder's file or folder, or a run."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from model.artefacts import EMBEDDED_FOLDER, resolve
from model.device import pick_device
from model.official_files import ARTEFACTS, VOCODER
from model.training import checkpoint, checkpoint_steps
from model.vocoder.checkpoint import code_fingerprints, load_melody, load_vocoder, local_vocoder
from model.vocoder.synthesizer import Synthesizer, Utterance
from model.weights_file import fingerprint_of_files
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import CODEBOOK
from pipeline.speaking.names import EMBEDDED_VOCODER, OFFICIAL_CODEBOOK, VOICES, refuse_unknown
from pipeline.speaking.tokenizer import find_codebook
from pipeline.speaking.units import Units, require_codebook
from pipeline.speaking.voice_names import VoiceNames
from pipeline.units.codebook import FACTS, Codebook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from model.device import Device
    from pipeline.speaking.units import Codes

DType = Literal["float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Voice:
    """Speaks units: a vocoder, ready on its device.

    Args:
        synthesizer: The vocoder at work.
        path: The vocoder's file or folder.
        codebook_fingerprint: The codebook whose units it speaks; None where its file does not say.
        names: The names of its speakers and styles.
        speaker, style: Who speaks, and how, where a call does not say: a number or a name.
        code_fingerprints: The models of `pitch` and `style` whose codes it takes, where its file says.
        blank: The unit of a CTC quantizer's blank, which it does not say: the unit before it is said longer.

    Raises:
        TwistError: the vocoder has no speaker or style of such a name.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        path: str,
        codebook_fingerprint: str | None,
        names: VoiceNames = VoiceNames(),  # noqa: B008 - immutable
        speaker: int | str | None = None,
        style: int | str | None = None,
        code_fingerprints: Mapping[str, str] | None = None,
        blank: int | None = None,
    ) -> None:
        self._synthesizer = synthesizer
        self._blank = blank
        self.path = path
        self.codebook_fingerprint = codebook_fingerprint
        self.names = names
        self._speaker = names.speaker(speaker)
        self._style = names.style(style)
        self.code_fingerprints = dict(code_fingerprints or {})

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of its files."""
        return fingerprint_of_files(Path(self.path))

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second of the audio that it makes."""
        return self._synthesizer.sample_rate_hz

    @property
    def num_units(self) -> int:
        """How many different units it speaks."""
        return self._synthesizer.num_units

    @property
    def num_codes(self) -> dict[str, int]:
        """How many codes of `pitch` and `style` it takes beside units; empty if it takes none."""
        return self._synthesizer.num_codes

    @property
    def needed_codes(self) -> tuple[str, ...]:
        """Those of `pitch` and `style` that it cannot do without; it predicts the others where they are missing."""
        return self._synthesizer.needed_codes

    @property
    def frames_per_code(self) -> dict[str, int]:
        """How many frames of units one of these codes lasts."""
        return self._synthesizer.frames_per_code

    def __call__(
        self,
        units: Units,
        speaker: int | str | NDArray[np.float32] | None = None,
        style: int | str | None = None,
        codes: Codes | None = None,
    ) -> tuple[NDArray[np.float32], int]:
        """Speaks the units of one clip.

        Args:
            units: Each lasts as long as its duration says; durations are predicted where there are none.
            speaker: A number, a name or a vector, for vocoders of several speakers.
            style: A number or a name, for vocoders of several styles.
            codes: Of `pitch` and `style`, for vocoders that take them: at their own rates where units have durations,
                else one for each unit. Some vocoders predict those of pitch where there are none.

        Returns:
            wav [S] from -1 to 1, and its sample rate.

        Raises:
            TwistError: the units come from another codebook, one of them is not among the vocoder's, or the vocoder
                needs a speaker, style or codes that are not given.
        """
        (wav,) = self.batch([units], [speaker], [style], [codes])
        return wav, self.sample_rate_hz

    def batch(
        self,
        clips: Sequence[Units],
        speakers: Sequence[int | str | NDArray[np.float32] | None] = (),
        styles: Sequence[int | str | None] = (),
        codes: Sequence[Codes | None] = (),
    ) -> list[NDArray[np.float32]]:
        """Speaks the units of many clips: a wav [S] of each.

        Args:
            clips: See `__call__`.
            speakers: The speaker of each clip, or nothing.
            styles: The style of each clip, or nothing.
            codes: The codes of each clip, or nothing.

        Raises:
            TwistError: as `__call__`.
        """
        for units in clips:
            self._require_own(units)
        nobody: list[Any] = [None] * len(clips)
        all_codes = [dict(of_clip or {}) for of_clip in codes or nobody]
        for of_clip in all_codes:
            if missing := [name for name in self.needed_codes if name not in of_clip]:
                raise TwistError(f"the voice {self.path} takes codes of {missing[0]}, which units alone do not have")
        clips = [_without(units, self._blank) for units in clips]
        # Nothing is left of a clip of blanks alone, and nothing of its codes.
        all_codes = [
            of_clip if len(units) else {name: codes[:0] for name, codes in of_clip.items()}
            for units, of_clip in zip(clips, all_codes, strict=True)
        ]
        return self._synthesizer(
            [
                Utterance(
                    units.values,
                    units.durations,
                    self._speaker if speaker is None else self.names.speaker(speaker),
                    self._style if style is None else self.names.style(style),
                    pitch_codes=of_clip.get("pitch"),
                    style_codes=of_clip.get("style"),
                )
                for units, speaker, style, of_clip in zip(
                    clips, speakers or nobody, styles or nobody, all_codes, strict=True
                )
            ]
        )

    def with_durations(self, units: Units) -> Units:
        """The same units with the durations that the vocoder predicts.

        Raises:
            TwistError: the vocoder predicts none, or a unit is not among the vocoder's.
        """
        self._require_own(units)
        spoken = _without(units, self._blank)
        # Nothing but blanks is not spoken, and lasts as short as it can.
        durations = self._synthesizer.durations(spoken.values) if len(spoken) else np.ones(len(units), np.uint16)
        return Units(units.values, durations, units.frame_rate_hz, units.codebook_fingerprint)

    def _require_own(self, units: Units) -> None:
        require_codebook(units, self.codebook_fingerprint, "but this voice speaks those of")


def load_voice(source: str | Path, device: Device = "auto", dtype: DType = "float32") -> Voice:
    """The voice of a name, a vocoder's file or folder, or a run.

    Args:
        source: A run's folder, local or s3:// (the best vocoder trained in it, else the one made for its units), a
            vocoder's folder, a published .pt file, or a name: hifigan-tiny-25hz, which comes with this package, or
            mhubert-base-25hz-hifigan, Meta's, which is downloaded once.
        device: Where the vocoder runs; auto is cuda where there is a GPU.
        dtype: What it computes in.

    Raises:
        TwistError: there is none, or it cannot be loaded.
    """
    folder = str(source)
    refuse_unknown(folder, "voice", VOICES)
    if storage.exists(storage.join(folder, CODEBOOK, FACTS)):
        return voice_for(find_codebook(folder), run=folder, device=device, dtype=dtype)
    return _load(local_vocoder(folder), device, dtype)


def voice_for(
    units: Codebook | str,
    *,
    named: str | None = None,
    run: str = "",
    device: Device = "auto",
    dtype: DType = "float32",
    speaker: int | str | None = None,
    style: int | str | None = None,
) -> Voice:
    """The voice for the units of a codebook: the one named, else the best of a run, else the one made for these units.

    Args:
        units: Their codebook, or its fingerprint.
        named: A vocoder's folder, file or name.
        run: A run's folder.
        device: Where the vocoder runs.
        dtype: What it computes in.
        speaker, style: Who speaks, and how, for vocoders of several.

    Raises:
        TwistError: there is none, it cannot be loaded, it speaks the units of another codebook, or knows no such
            speaker or style.
    """
    path = checkpoint.checked(local_vocoder(named)) if named is not None else _vocoder_for(units, run)
    wanted = units if isinstance(units, str) else units.fingerprint
    voice = _load(path, device, dtype, speaker, style, None if isinstance(units, str) else _blank_of(units))
    if voice.codebook_fingerprint not in (None, wanted):
        raise TwistError(
            f"the vocoder {path} speaks the units of another codebook ({voice.codebook_fingerprint}) than these "
            f"({wanted}): the same numbers mean other sounds; name the vocoder of these units, or train one with "
            f"`twist train-vocoder`"
        )
    if not isinstance(units, str) and voice.num_units < units.codebook_size - (_blank_of(units) is not None):
        raise TwistError(f"the vocoder {path} speaks {voice.num_units} units, but these are of {units.codebook_size}")
    return voice


def _blank_of(book: Codebook) -> int | None:
    """The unit that a CTC quantizer has for its blank, which no voice knows how to say; None of k-means."""
    return book.codebook_size - 1 if book.is_ctc else None


def _without(units: Units, blank: int | None) -> Units:
    """Units in which a blank is the unit before it (at the start, the one behind), as in the quantizer.

    It stands in units of clips without anything else, of which nothing is left, and in what a speech LM may draw.
    """
    if blank is None or not (units.values == blank).any():
        return units
    said = np.flatnonzero(units.values != blank)
    if not len(said):
        return units[:0]
    before = np.searchsorted(said, np.arange(len(units)), side="right") - 1
    return replace(units, values=units.values[said[np.maximum(before, 0)]])


def _load(
    path: Path,
    device: Device,
    dtype: DType,
    speaker: int | str | None = None,
    style: int | str | None = None,
    blank: int | None = None,
) -> Voice:
    vocoder, fingerprint = load_vocoder(path)
    vocoder.for_inference(DTYPES[dtype], pick_device(device))
    synthesizer = Synthesizer(vocoder, melody=load_melody(path))
    # A voice that was trained with the blank says it.
    unsaid = blank if blank is not None and synthesizer.num_units <= blank else None
    names = VoiceNames.beside(path)
    return Voice(synthesizer, str(path), fingerprint, names, speaker, style, code_fingerprints(path), unsaid)


def _vocoder_for(units: Codebook | str, run: str) -> Path:
    trained = storage.join(run, "vocoder") if run else ""
    if trained and checkpoint_steps.steps(trained):
        return checkpoint.fetch(checkpoint_steps.best_folder(trained))
    fingerprint = units if isinstance(units, str) else units.fingerprint
    embedded = EMBEDDED_FOLDER / EMBEDDED_VOCODER
    if json.loads((embedded / "config.json").read_text())["codebook_fingerprint"] == fingerprint:
        return embedded
    official_sha256 = ARTEFACTS[OFFICIAL_CODEBOOK].sha256
    if isinstance(units, Codebook) and units.facts.get("imported_sha256") == official_sha256:
        return Path(resolve(VOCODER))
    raise TwistError(
        f"there is no vocoder for the units of codebook {fingerprint}: train one on their run with `twist "
        f"train-vocoder`, or name it with --vocoder"
    )
