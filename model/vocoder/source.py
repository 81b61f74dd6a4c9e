"""The source of a vocoder that is told F0: sines at F0 and its multiples, given to each stage at its own rate.

Upsampling alone has to invent periods whose phase nothing tells; with a source it has only to shape those it is given.
Where F0 is 0, unvoiced, sines are silent. Their phase is the sum of F0 up to there, so that it has no jumps.

Source: Wang et al. 2019, "Neural source-filter waveform models for statistical parametric speech synthesis", section
II. Here sines stay apart, and there is no noise, since a vocoder learns to hiss by itself: nothing is random.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from model.vocoder.config import VocoderConfig


class HarmonicSource(nn.Module):
    """Makes sines of F0, and brings them to the rate and width of each stage by a strided convolution."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        assert config.source_harmonics is not None
        self._num_harmonics = config.source_harmonics
        self._hop_samples = config.hop_samples
        self._sample_rate_hz = config.sampling_rate
        channels = config.upsample_initial_channel
        self.convs = nn.ModuleList()
        for rate in itertools.accumulate(config.upsample_rates, lambda one, other: one * other):
            channels //= 2
            stride = config.hop_samples // rate
            # Centred on each step, and never reaching the next one: nothing waits for samples to come.
            self.convs.append(nn.Conv1d(self._num_harmonics, channels, 2 * stride - 1, stride, padding=stride - 1))

    def sines(self, f0_hz: Tensor, cycles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The sines of a stretch, and the cycles up to its end.

        Args:
            f0_hz: [B, F, K], K values for each frame, 0 where it is unvoiced.
            cycles: Those of F0 before the stretch, [B] float64; None: it is the beginning.

        Returns:
            Sines [B, source_harmonics, F * hop_samples], and the cycles after them [B]: what the next stretch goes on
            from.
        """
        values_per_frame = f0_hz.shape[2]
        samples, rest = divmod(self._hop_samples, values_per_frame)
        assert not rest, f"{values_per_frame} values of F0 in a frame of {self._hop_samples} samples"
        per_sample = f0_hz.flatten(1).double().repeat_interleave(samples, dim=1) / self._sample_rate_hz
        summed = torch.cumsum(per_sample, dim=1)
        if cycles is None:
            cycles = torch.zeros_like(per_sample[:, :0]).sum(dim=1)
        # Whole cycles are taken away in float64, so that later sines are as exact as the first.
        phase = torch.remainder(cycles[:, None] + summed, 1.0).float()[:, None]
        numbers = torch.arange(1, self._num_harmonics + 1, device=f0_hz.device)[:, None]
        # From half the sample rate on, a sine would sound as another one.
        is_heard = (per_sample[:, None] > 0) & (per_sample[:, None] * numbers < 0.5)
        return torch.sin(2 * math.pi * numbers * phase) * is_heard, cycles + per_sample.sum(dim=1)

    def forward(self, sines: Tensor, stage: int) -> Tensor:
        """Sines [B, source_harmonics, S] as a stage adds them, [B, C, S * its rate / hop_samples]."""
        added: Tensor = self.convs[stage](sines.to(next(self.parameters()).dtype))
        return added
