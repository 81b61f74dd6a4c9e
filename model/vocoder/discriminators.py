"""HiFi-GAN's discriminators, which tell recorded audio from the vocoder's at several periods and scales.

Source: Kong et al. 2020, section 2.3 and the official repository's layout; all widths are scaled by one number, since
the published ones (41M and 30M parameters) are far larger than the vocoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
NUM_SCALES = 3
# The published width of the widest layers.
FULL_WIDTH = 1024

# Feature maps after each layer; the last are the scores [B, N].
Maps = list[Tensor]


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample: wav [B, S] folded to [B, 1, S / period, period]."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        channels = [1, *(max(1, width * share // 32) for share in (1, 4, 16, 32, 32))]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(channels[i], channels[i + 1], (5, 1), (3 if i < 4 else 1, 1), padding=(2, 0)))
            for i in range(5)
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Tensor) -> Maps:
        if lacking := -wav.shape[-1] % self.period:
            wav = F.pad(wav[:, None], (0, lacking), mode="reflect")[:, 0]
        return _maps(wav.view(len(wav), 1, -1, self.period), self.convs, self.conv_post)


class ScaleDiscriminator(nn.Module):
    """Looks at all samples through grouped convolutions; the first one has spectral norm, the others weight norm."""

    def __init__(self, width: int, *, is_first: bool) -> None:
        super().__init__()
        norm = spectral_norm if is_first else weight_norm
        w = [max(16, width * share // 8) for share in (1, 1, 2, 4, 8, 8, 8)]
        wide, last = [(w[2], 41, 4, 16), (w[3], 41, 4, 16), (w[4], 41, 1, 16)], (w[5], 5, 1, 1)
        layers = [(1, 15, 1, 1), (w[0], 41, 2, 4), (w[1], 41, 2, 16), *wide, last]
        self.convs = nn.ModuleList(
            norm(nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups))
            for (inputs, kernel, stride, groups), outputs in zip(layers, w, strict=True)
        )
        self.conv_post = norm(nn.Conv1d(w[-1], 1, 3, padding=1))

    def forward(self, wav: Tensor) -> Maps:
        return _maps(wav[:, None], self.convs, self.conv_post)


class Discriminators(nn.Module):
    """All period and scale discriminators.

    Args:
        width: Channels of their widest layers, a multiple of 128; 1024 as published.
    """

    def __init__(self, width: int = FULL_WIDTH) -> None:
        super().__init__()
        assert width % 128 == 0, f"a width of {width} cannot be parted into 16 groups in every layer"
        self.periods = nn.ModuleList(PeriodDiscriminator(period, width) for period in PERIODS)
        self.scales = nn.ModuleList(ScaleDiscriminator(width, is_first=i == 0) for i in range(NUM_SCALES))

    def forward(self, wav: Tensor) -> list[Maps]:
        """wav [B, S] -> the maps of each discriminator."""
        found = [discriminator(wav) for discriminator in self.periods]
        for number, discriminator in enumerate(self.scales):
            if number:
                wav = F.avg_pool1d(wav[:, None], 4, 2, padding=2)[:, 0]
            found.append(discriminator(wav))
        return found


def _maps(x: Tensor, convs: nn.ModuleList, conv_post: nn.Module) -> Maps:
    maps = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        maps.append(x)
    x = conv_post(x)
    return [*maps, torch.flatten(x, 1)]
