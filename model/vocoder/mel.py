"""Log-mel spectrograms as HiFi-GAN is trained on them: Slaney's mel filters over magnitudes.

Source: Kong et al. 2020; filters as librosa's default (Slaney 1998, Auditory Toolbox), with unit area each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.vocoder.mel_config import MelConfig

FLOOR = 1e-5
# Slaney's scale: linear to 1000 Hz, 3 mels per 200 Hz; above, 27 mels per factor of 6.4.
_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_MEL_AT_BREAK = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = torch.log(torch.tensor(6.4, dtype=torch.float64)).item() / 27


class LogMel(nn.Module):
    """wav [B, S] -> log-mel [B, num_mels, frames], frames = S // hop, each centred on its hop."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(config).float(), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        n_fft, hop = self.config.n_fft, self.config.hop_samples
        padding = (n_fft - hop) // 2
        wav = F.pad(wav[:, None].float(), (padding, n_fft - hop - padding), mode="reflect")[:, 0]
        spectrum = torch.stft(wav, n_fft, hop, window=self.window, center=False, return_complex=True)
        # Not abs(), whose gradient at 0 is not finite.
        magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
        return torch.log(torch.clamp(self.filters @ magnitude, min=FLOOR))


def mel_filters(config: MelConfig) -> Tensor:
    """Triangles over FFT bins, [num_mels, n_fft // 2 + 1] float64."""
    nyquist_hz = config.sample_rate_hz / 2
    bins_hz = torch.linspace(0, nyquist_hz, config.n_fft // 2 + 1, dtype=torch.float64)
    highest = _mel(torch.tensor(config.max_hz or nyquist_hz, dtype=torch.float64))
    corners_hz = _hz(torch.linspace(0, 1, config.num_mels + 2, dtype=torch.float64) * highest)
    low, middle, high = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    rising, falling = (bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle)
    return torch.clamp(torch.minimum(rising, falling), min=0) * 2 / (high - low)


def _mel(hz: Tensor) -> Tensor:
    above = _MEL_AT_BREAK + torch.log(torch.clamp(hz, min=_BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return torch.where(hz < _BREAK_HZ, hz / _HZ_PER_MEL, above)


def _hz(mel: Tensor) -> Tensor:
    above = _BREAK_HZ * torch.exp(_LOG_STEP * (mel - _MEL_AT_BREAK))
    return torch.where(mel < _MEL_AT_BREAK, mel * _HZ_PER_MEL, above)
