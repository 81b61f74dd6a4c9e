"""MFCC features at 25 Hz, in torch alone: the targets of HuBERT's first iteration, and an encoder without weights.

Kaldi's MFCC as fairseq's `examples/hubert/simple_kmeans/dump_mfcc_feature.py` computes it, on samples in [-1, 1]:
13 cepstra, their deltas and delta-deltas, every 10 ms; then the mean of each group of four, to match HuBERT's frames of
40 ms. There is no dither (the same clip always gives the same features) and no normalization over the clip (a frame's
features depend only on nearby samples).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.records import SAMPLE_RATE_HZ

WINDOW_SAMPLES = 400
SHIFT_SAMPLES = 160
FFT_SIZE = 512
PREEMPHASIS = 0.97
POVEY_WINDOW_EXPONENT = 0.85
NUM_MEL_BINS = 23
LOWEST_HZ = 20.0
HIGHEST_HZ = 8_000.0
# Kaldi's floor for a mel bin's energy, the smallest float32 step at 1: the log of digital silence stays finite.
MEL_ENERGY_FLOOR = 2.0**-23
NUM_CEPSTRA = 13
LIFTER = 22.0
# A delta is the least-squares slope over this many frames to each side, edges repeated.
DELTA_REACH_FRAMES = 2
SHIFTS_PER_FRAME = 4


class Mfcc(nn.Module):
    """wav [B, S] at 16 kHz -> features [B, F, 39] at 25 Hz, float32."""

    hop_samples = SHIFTS_PER_FRAME * SHIFT_SAMPLES
    min_samples = WINDOW_SAMPLES + (SHIFTS_PER_FRAME - 1) * SHIFT_SAMPLES
    feature_dim = 3 * NUM_CEPSTRA

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: they are computed from the constants above, not learned.
        window = torch.hann_window(WINDOW_SAMPLES, periodic=False, dtype=torch.float64).pow(POVEY_WINDOW_EXPONENT)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("mel_filters", _mel_filters().float(), persistent=False)
        self.register_buffer("cepstrum_basis", _cepstrum_basis().float(), persistent=False)
        self.window: Tensor
        self.mel_filters: Tensor
        self.cepstrum_basis: Tensor

    @staticmethod
    def num_frames(num_samples: int) -> int:
        """Frames in a wav of `num_samples`: whole groups of four whole windows; the rest gives none."""
        if num_samples < Mfcc.min_samples:
            return 0
        return (num_samples - Mfcc.min_samples) // Mfcc.hop_samples + 1

    @staticmethod
    def settings() -> dict[str, float]:
        """Every constant that the features depend on."""
        return {
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "window_samples": WINDOW_SAMPLES,
            "shift_samples": SHIFT_SAMPLES,
            "fft_size": FFT_SIZE,
            "preemphasis": PREEMPHASIS,
            "povey_window_exponent": POVEY_WINDOW_EXPONENT,
            "num_mel_bins": NUM_MEL_BINS,
            "lowest_hz": LOWEST_HZ,
            "highest_hz": HIGHEST_HZ,
            "mel_energy_floor": MEL_ENERGY_FLOOR,
            "num_cepstra": NUM_CEPSTRA,
            "lifter": LIFTER,
            "delta_reach_frames": DELTA_REACH_FRAMES,
            "shifts_per_frame": SHIFTS_PER_FRAME,
        }

    def forward(self, wav: Tensor) -> Tensor:
        """wav [B, S] float32 in [-1, 1], S at least `min_samples` -> features [B, F, 39], F = `num_frames(S)`."""
        cepstra = self._cepstra(wav)
        deltas = _deltas(cepstra)
        features = torch.cat([cepstra, deltas, _deltas(deltas)], dim=-1)
        num_batch, num_shifts, _ = features.shape
        num_frames = num_shifts // SHIFTS_PER_FRAME
        whole_groups = features[:, : num_frames * SHIFTS_PER_FRAME]
        return whole_groups.reshape(num_batch, num_frames, SHIFTS_PER_FRAME, self.feature_dim).mean(dim=2)

    def _cepstra(self, wav: Tensor) -> Tensor:
        """wav [B, S] -> liftered cepstra [B, F, 13] every 10 ms, the zeroth first."""
        windows = wav.unfold(-1, WINDOW_SAMPLES, SHIFT_SAMPLES)
        windows = windows - windows.mean(dim=-1, keepdim=True)
        # A window's first sample stands in for the one before it.
        previous = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((windows - PREEMPHASIS * previous) * self.window, n=FFT_SIZE)
        power = spectrum.real.square() + spectrum.imag.square()
        mel_energy = torch.matmul(power, self.mel_filters).clamp(min=MEL_ENERGY_FLOOR)
        return torch.matmul(mel_energy.log(), self.cepstrum_basis)


def _mel_filters() -> Tensor:
    """Kaldi's triangles, straight in mel: [FFT_SIZE / 2 + 1, NUM_MEL_BINS]."""
    bin_hz = torch.arange(FFT_SIZE // 2 + 1, dtype=torch.float64) * (SAMPLE_RATE_HZ / FFT_SIZE)
    edges_mel = torch.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), NUM_MEL_BINS + 2, dtype=torch.float64)
    left, center, right = edges_mel[:-2], edges_mel[1:-1], edges_mel[2:]
    bin_mel = (1127.0 * torch.log1p(bin_hz / 700.0))[:, None]
    rising = (bin_mel - left) / (center - left)
    falling = (right - bin_mel) / (right - center)
    return torch.minimum(rising, falling).clamp(min=0.0)


def _mel(hz: float) -> float:
    return 1127.0 * math.log1p(hz / 700.0)


def _cepstrum_basis() -> Tensor:
    """Orthonormal DCT-II with the liftering folded in: [NUM_MEL_BINS, NUM_CEPSTRA]."""
    cepstrum = torch.arange(NUM_CEPSTRA, dtype=torch.float64)
    mel_bin = torch.arange(NUM_MEL_BINS, dtype=torch.float64)
    basis = torch.cos(math.pi / NUM_MEL_BINS * (mel_bin[:, None] + 0.5) * cepstrum) * math.sqrt(2.0 / NUM_MEL_BINS)
    basis[:, 0] = math.sqrt(1.0 / NUM_MEL_BINS)
    return basis * (1.0 + 0.5 * LIFTER * torch.sin(math.pi * cepstrum / LIFTER))


def _deltas(features: Tensor) -> Tensor:
    """Slope of features [B, F, D] over time, per frame: [B, F, D]."""
    num_frames = features.shape[1]
    padded = F.pad(features.transpose(1, 2), (DELTA_REACH_FRAMES, DELTA_REACH_FRAMES), mode="replicate").transpose(1, 2)
    reaches = range(1, DELTA_REACH_FRAMES + 1)
    slope = torch.zeros_like(features)
    for reach in reaches:
        later = padded[:, DELTA_REACH_FRAMES + reach : DELTA_REACH_FRAMES + reach + num_frames]
        earlier = padded[:, DELTA_REACH_FRAMES - reach : DELTA_REACH_FRAMES - reach + num_frames]
        slope += reach * (later - earlier)
    return slope / (2 * sum(reach * reach for reach in reaches))
