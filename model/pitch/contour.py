"""Pitch contours: the F0 and voicing of speech at 200 Hz, and what of them the VQ-VAE sees.

Speech without a voiced frame has a contour of zeros, whatever the extractor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.pitch import nccf, yaapt
from model.pitch.model_config import HOP_SAMPLES, Extractor, Features

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Contour:
    """The pitch of a clip, T frames of 5 ms.

    Attributes:
        f0: [T] in Hz; 0: none.
        is_voiced: [T]. With nccf the same as f0 > 0; YAAPT decides on it apart.
    """

    f0: NDArray[np.float32]
    is_voiced: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.f0)

    @property
    def mean_hz(self) -> float | None:
        """The mean F0 of the voiced frames; None if there is none."""
        voiced = self.f0[self.f0 > 0]
        return float(voiced.mean(dtype=np.float64)) if len(voiced) else None


def extract(wav: NDArray[np.float32], extractor: Extractor) -> Contour:
    """The contour of a clip [S] at 16 kHz, of S // 80 frames.

    Raises:
        TwistError: the extractor is not installed.
    """
    num_frames = len(wav) // HOP_SAMPLES
    if extractor == "yaapt":
        return Contour(*yaapt.track(wav, num_frames))
    f0 = nccf.track(wav, num_frames)
    return Contour(f0, f0 > 0)


def method_of(extractor: Extractor) -> str:
    """Names what finds F0, for fingerprints: contours of one name are equal."""
    return f"nccf{nccf.VERSION}" if extractor == "nccf" else extractor


def interpolated(f0: NDArray[np.float32]) -> NDArray[np.float32]:
    """F0 [T] with zeros replaced: on lines between voiced frames, and by the nearest one at the ends.

    Zeros stay where all is unvoiced.
    """
    voiced = np.flatnonzero(f0 > 0)
    if not len(voiced):
        return f0.copy()
    return np.interp(np.arange(len(f0)), voiced, f0[voiced]).astype(np.float32)


def features_of(contour: Contour, features: Features, mean_hz: float | None = None) -> NDArray[np.float32]:
    """What the VQ-VAE sees of a contour: F0 in Hz and voicing [2, T].

    Args:
        contour: The pitch.
        features: Which F0.
        mean_hz: What is taken from it in place of the mean of the contour's voiced frames: that of its speaker, say.
    """
    f0 = interpolated(contour.f0) if "f0_interp" in features else contour.f0
    if features.startswith("norm_"):
        mean_hz = contour.mean_hz if mean_hz is None else mean_hz
        f0 = np.where(f0 > 0, f0 - np.float32(mean_hz or 0.0), f0)
    return np.stack([f0, contour.is_voiced]).astype(np.float32)
