"""The VQ-VAE of pitch: F0 and voicing at 200 Hz to codes at 12.5 Hz and back, under the published names of weights.

    encoder    4 times {convolution of stride 2, residual blocks of dilation 1, 3, 9, 27}, a convolution
    vq         the nearest of 64 vectors
    decoder    a convolution, 4 times {the same residual blocks, transposed convolution of stride 2}, a convolution

Source: Dhariwal et al. 2020, "Jukebox", section 3 and appendix B.1; Polyak et al. 2021, "Speech resynthesis from
discrete disentangled self-supervised representations", section 2.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    from model.pitch.model_config import PitchModelConfig

NUM_CHANNELS = 2


class Coded(NamedTuple):
    """A forward pass in training: the reconstruction [B, 2, T], the encoder's outputs [B, P, D], the codes [B, P]."""

    made: Tensor
    latents: Tensor
    codes: Tensor


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int, dilation: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.model = nn.Sequential(
            nn.ReLU(),
            nn.Conv1d(width, hidden, 3, padding=dilation, dilation=dilation),
            nn.ReLU(),
            nn.Conv1d(hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.model(x)
        return x + self.scale * change


class _Blocks(nn.Module):
    def __init__(self, config: PitchModelConfig, *, reverses: bool = False) -> None:
        super().__init__()
        hidden = int(config.hidden_share * config.width)
        scale = config.depth**-0.5 if config.scales_residuals else 1.0
        dilations: Iterable[int] = [config.dilation_growth**number for number in range(config.depth)]
        if reverses:
            dilations = reversed(list(dilations))
        self.model = nn.Sequential(*(_Block(config.width, hidden, dilation, scale) for dilation in dilations))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class _Level(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)


class _Encoder(nn.Module):
    def __init__(self, config: PitchModelConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv1d(config.width if number else NUM_CHANNELS, config.width, 4, 2, 1), _Blocks(config))
            for number in range(config.num_halvings)
        ]
        layers.append(nn.Conv1d(config.width, config.code_dim, 3, padding=1))
        self.level_blocks = nn.ModuleList([_Level(layers)])


class _Decoder(nn.Module):
    def __init__(self, config: PitchModelConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(config.code_dim, config.width, 3, padding=1)]
        for number in range(config.num_halvings):
            is_last = number == config.num_halvings - 1
            widened = nn.ConvTranspose1d(config.width, config.code_dim if is_last else config.width, 4, 2, 1)
            layers.append(nn.Sequential(_Blocks(config, reverses=config.reverses_dilation), widened))
        self.level_blocks = nn.ModuleList([_Level(layers)])
        self.out = nn.Conv1d(config.code_dim, NUM_CHANNELS, 3, padding=1)


class _Codebook(nn.Module):
    k: Tensor

    def __init__(self, config: PitchModelConfig) -> None:
        super().__init__()
        # Not a parameter: it follows the encoder by moving averages, without a gradient.
        self.register_buffer("k", torch.zeros(config.num_codes, config.code_dim))


class _Quantizer(nn.Module):
    def __init__(self, config: PitchModelConfig) -> None:
        super().__init__()
        self.level_blocks = nn.ModuleList([_Codebook(config)])


class PitchVQVAE(nn.Module):
    """The network; its inputs are features [B, 2, T] of `contour.features_of`, in Hz."""

    def __init__(self, config: PitchModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.vq = _Quantizer(config)
        self.decoder = _Decoder(config)
        self.register_buffer("scale", torch.tensor([[config.f0_scale_hz], [1.0]]), persistent=False)

    scale: Tensor

    @property
    def codebook(self) -> Tensor:
        """The vectors of the codes [K, D]."""
        codebook: Tensor = self.vq.level_blocks[0].k  # type: ignore[assignment]
        return codebook

    def encode(self, features: Tensor) -> Tensor:
        """features [B, 2, T] -> latents [B, P, D], P = T // frames_per_code."""
        latents: Tensor = self.encoder.level_blocks[0].model(features / self.scale)  # type: ignore[operator]
        return latents.transpose(1, 2)

    def quantize(self, latents: Tensor) -> Tensor:
        """The codes [...] whose vectors are nearest to latents [..., D]."""
        book = self.codebook
        distances = latents.square().sum(-1, keepdim=True) - 2 * latents @ book.T + book.square().sum(1)
        return distances.argmin(-1)

    def decode(self, vectors: Tensor) -> Tensor:
        """vectors [B, P, D] -> features [B, 2, P * frames_per_code]."""
        hidden = self.decoder.level_blocks[0].model(vectors.transpose(1, 2))  # type: ignore[operator]
        made: Tensor = self.decoder.out(hidden) * self.scale
        return made

    def decode_codes(self, codes: Tensor) -> Tensor:
        """codes [B, P] -> features [B, 2, P * frames_per_code]."""
        return self.decode(F.embedding(codes, self.codebook))

    def forward(self, features: Tensor) -> Coded:
        """A pass through the codes whose gradient goes past them, straight to the encoder."""
        latents = self.encode(features)
        codes = self.quantize(latents.detach())
        vectors = F.embedding(codes, self.codebook)
        return Coded(self.decode(latents + (vectors - latents).detach()), latents, codes)
