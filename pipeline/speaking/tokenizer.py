"""Audio in, units out: the tokenizer of a name, a codebook's folder or a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.artefacts import resolve
from model.encoder.config import EncoderConfig
from pipeline.audio.read import Span
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.runs import CODEBOOK
from pipeline.speaking.names import (
    CODEBOOK_OF,
    FITTED_ON,
    TOKENIZERS,
    refuse_unknown,
)
from pipeline.speaking.pauses import pause_units
from pipeline.speaking.units import Units
from pipeline.speaking.wav import read_clip, wav_of_samples
from pipeline.units import codebook, codebook_import
from pipeline.units.encode import UnitEncoder, describe_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.device import Device
    from pipeline.units.codebook import Codebook

# Clips whose audio is in memory at a time.
CLIPS_AT_ONCE = 64


class Tokenizer:
    """Turns audio into units: an encoder and the codebook that was fitted on its features.

    Args:
        book: The codebook; it says which encoder belongs to it.
        device: Where the encoder runs.

    Raises:
        TwistError: the encoder is no longer where it was, is another one, or there is no such device.
    """

    def __init__(self, book: Codebook, device: Device = "auto") -> None:
        self.codebook = book
        self._encode = UnitEncoder(encoder_of(book, device), book)

    @property
    def codebook_size(self) -> int:
        """How many different units there are."""
        return self.codebook.codebook_size

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second of audio."""
        return float(self.codebook.facts["encoder"]["frame_rate_hz"])

    def __call__(self, audio: str | Path | NDArray[Any], sample_rate_hz: int | None = None) -> Units:
        """The units of one clip.

        Args:
            audio: A file of any format and rate, or samples [S] or [S, channels] as floats from -1 to 1.
            sample_rate_hz: The rate of samples; leave it out for a file.

        Raises:
            TwistError: the clip cannot be read, is silent or too short, or samples come without their rate.
        """
        return self.batch([audio], sample_rate_hz)[0]

    def batch(self, clips: Sequence[str | Path | NDArray[Any]], sample_rate_hz: int | None = None) -> list[Units]:
        """The units of many clips; what each gives does not depend on the others.

        Args:
            clips: Files, or samples; see `__call__`.
            sample_rate_hz: The rate of all samples.

        Raises:
            TwistError: as `__call__`; the first clip that cannot be used is named.
        """
        units: list[Units] = []
        for start in range(0, len(clips), CLIPS_AT_ONCE):
            wavs = [
                self._read(clip, sample_rate_hz, f"clip {number}")
                for number, clip in enumerate(clips[start : start + CLIPS_AT_ONCE], start)
            ]
            units += self.of_wavs(wavs)
        return units

    def pause_units(
        self, clips: Sequence[str | Path | NDArray[Any]], sample_rate_hz: int | None = None
    ) -> tuple[int, ...]:
        """The units that are pauses in these clips, for `SamplingConfig`: a minute of speech has them all.

        Args:
            clips: Files, or samples; see `__call__`.
            sample_rate_hz: The rate of all samples.

        Raises:
            TwistError: as `batch`.
        """
        wavs = [self._read(clip, sample_rate_hz, f"clip {number}") for number, clip in enumerate(clips)]
        return pause_units(wavs, self.of_wavs(wavs))

    def of_wavs(self, wavs: Sequence[NDArray[np.float32]]) -> list[Units]:
        """The units of clips [S] that are 16 kHz mono already."""
        return [Units.of_frames(frames, self.frame_rate_hz, self.codebook.fingerprint) for frames in self._encode(wavs)]

    def require_frames(self, wav: NDArray[np.float32], name: str) -> None:
        """Refuses a clip that is too short for a single frame.

        Raises:
            TwistError: it is too short.
        """
        if self._encode.num_frames(len(wav)) == 0:
            raise TwistError(f"{name} is too short: {len(wav) / SAMPLE_RATE_HZ:.3f} s hold no frame of the encoder")

    def _read(self, clip: str | Path | NDArray[Any], sample_rate_hz: int | None, name: str) -> NDArray[np.float32]:
        if isinstance(clip, str | Path):
            if sample_rate_hz is not None:
                raise TwistError(f"{clip} is a file, which says its own sample rate; leave sample_rate_hz out")
            name, wav = str(clip), read_clip(Span(str(clip), None, 0.0, math.inf), str(clip))
        elif sample_rate_hz is None:
            raise TwistError(f"{name} is an array of samples; give their rate, as in tokenizer(samples, 16_000)")
        else:
            wav = wav_of_samples(clip, sample_rate_hz, name)
        self.require_frames(wav, name)
        return wav


def encoder_of(book: Codebook, device: Device = "auto") -> EncoderConfig:
    """The settings of the encoder that a codebook was fitted on."""
    facts = book.facts["encoder"]
    settings: dict[str, Any] = {"name": facts["name"], "max_chunk_s": facts["max_chunk_s"], "device": device}
    level_dbfs = facts.get("level_dbfs")  # not in a codebook from before there were levels
    settings["level_dbfs"] = "unchanged" if level_dbfs is None else level_dbfs
    if facts["name"] == "hubert":
        settings |= {name: facts[name] for name in ("path", "layer", "dtype", "normalize")}
    return EncoderConfig(**settings)


def load_tokenizer(source: str | Path, device: Device = "auto") -> Tokenizer:
    """The tokenizer of a name, a codebook's folder or a run.

    Args:
        source: A run's folder, a codebook's folder (both local or s3://), or a name: hubert-tiny-25hz, which comes with
            this package, or mhubert-base-25hz, Meta's, which is downloaded once.
        device: Where the encoder runs; auto is cuda where there is a GPU.

    Raises:
        TwistError: there is no codebook, or its encoder cannot be loaded.
    """
    return Tokenizer(find_codebook(str(source)), device)


def find_codebook(source: str) -> Codebook:
    """The codebook of a run, in a folder, or of a name (an encoder's name stands for the codebook that belongs to it).

    Raises:
        TwistError: there is none, it is damaged, or it cannot be downloaded.
    """
    refuse_unknown(source, "tokenizer", TOKENIZERS)
    name = CODEBOOK_OF.get(source, source)
    if name in FITTED_ON:
        return official_codebook(name)
    folder = resolve(name)
    of_run = storage.join(folder, CODEBOOK)
    is_run = storage.exists(storage.join(of_run, codebook.FACTS))
    return codebook.load(of_run if is_run else folder)


def official_codebook(name: str) -> Codebook:
    """A codebook that Meta publishes, downloaded once, with the facts of its encoder.

    Args:
        name: One of FITTED_ON.

    Raises:
        TwistError: a file is not the published one.
        RunError: it cannot be downloaded.
    """
    imported = codebook_import.read(resolve(name), name)
    path, layer = FITTED_ON[name]
    encoder = describe_encoder(EncoderConfig(name="hubert", path=path, layer=layer))
    return codebook.of_weights(imported.weights, codebook_import.facts_of(imported, encoder))
