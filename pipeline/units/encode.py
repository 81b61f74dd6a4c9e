"""Waveforms to units: of each frame, the codebook's; and a run of equal units becomes one with a duration."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.artefacts import identity
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.encoder.level import level_dbfs_of
from pipeline.units.codebook import Assigner, Codebook, check_encoder
from pipeline.units.ctc_quantizer import CtcAssigner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor


class UnitEncoder:
    """An encoder and its codebook as one: clips in, units out.

    Raises:
        CodebookError: the codebook was fitted on another encoder.
    """

    def __init__(self, encoder: EncoderConfig, codebook: Codebook) -> None:
        self._encoder = load_encoder(encoder)
        check_encoder(codebook, self._encoder.describe())
        self._assign: Callable[[Tensor], Tensor]
        if codebook.is_ctc:
            self._assign = CtcAssigner(codebook.weights, self._encoder.device)
        else:
            self._assign = Assigner(codebook.centroids, self._encoder.device)

    def num_frames(self, num_samples: int) -> int:
        """Frames, and so units before de-duplication, in a clip of `num_samples` at 16 kHz."""
        return self._encoder.num_frames(num_samples)

    @torch.inference_mode()
    def __call__(self, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Clips [S] at 16 kHz -> the unit of each frame [F]; a clip's units do not depend on the other clips."""
        if not wavs:
            return []
        units = [self._assign(frames) for frames in self._encoder.encode(as_tensors(wavs))]
        # One copy from the GPU for all clips.
        joined = torch.cat(units).to(torch.int32).cpu().numpy().astype(np.uint16)
        return np.split(joined, np.cumsum([len(clip_units) for clip_units in units[:-1]]))


def as_tensors(wavs: Sequence[NDArray[np.float32]]) -> list[Tensor]:
    """Clips as tensors that share the arrays' memory; do not write to them."""
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ", category=UserWarning)
        return [torch.from_numpy(wav) for wav in wavs]


def describe_encoder(encoder: EncoderConfig) -> dict[str, Any]:
    """Facts about the encoder that a reader of the units needs. Loads it on the CPU, as the driver may have no GPU."""
    return load_encoder(replace(encoder, device="cpu")).describe()


def encoder_settings(encoder: EncoderConfig) -> dict[str, Any]:
    """The settings that can change features, for a stage's fingerprint: all but the device and where the model lies.

    The level is the one that the checkpoint says, if the settings leave it to that: without a level they are those of
    a run that was begun before there were any.
    """
    settings = asdict(encoder)
    del settings["device"], settings["level_dbfs"]
    if encoder.path is not None:
        settings["path"] = identity(encoder.path)
    level_dbfs = level_dbfs_of(encoder)
    return settings if level_dbfs is None else {**settings, "level_dbfs": level_dbfs}


def run_lengths(units: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Units per frame [F] -> units without repeats [n] and their durations in frames [n].

    The same as textlesslib's de-duplication, torch.unique_consecutive with counts.
    """
    if len(units) == 0:
        return units, units.copy()
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    durations = np.diff(np.append(starts, len(units)))
    assert durations.max() < 2**16, f"a run of {durations.max()} frames does not fit uint16"
    return units[starts], durations.astype(np.uint16)
