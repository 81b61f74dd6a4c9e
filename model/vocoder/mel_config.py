"""The shape of a mel spectrogram."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MelConfig:
    """The shape of a mel spectrogram.

    Args:
        n_fft: Length of window and FFT, in samples.
        hop_samples: Samples from one frame to the next.
        num_mels: Number of mel bands.
        max_hz: Highest frequency; null: half the sample rate.
        sample_rate_hz: Sample rate of the audio.
    """

    n_fft: int = 1024
    hop_samples: int = 256
    num_mels: int = 80
    max_hz: float | None = 8000.0
    sample_rate_hz: int = 16_000
