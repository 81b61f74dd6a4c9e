"""The shape of a mel spectrogram."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MelConfig:
    """Of a mel spectrogram: window and FFT length, hop, bands, and the highest frequency (None: half the rate)."""

    n_fft: int = 1024
    hop_samples: int = 256
    num_mels: int = 80
    max_hz: float | None = 8000.0
    sample_rate_hz: int = 16_000
