"""A small classifier of spoken languages over frames of an encoder: convolutions, attentive pooling, a small head.

    frames [B, F, D] -> less each clip's own mean -> projection and convolutions over time [B, F, C]
        -> attentive mean and standard deviation [B, 2C] -> hidden layer -> a logit for each language [B, L]

The mean of a clip's frames is its voice and its channel as much as its language; what remains is how they move. Pooling
is that of Okabe et al. 2018, "Attentive statistics pooling for deep speaker embedding". Padding takes no part anywhere:
a clip's logits do not depend on the clips beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from model.language_id.pooled_config import PooledConfig

DILATIONS = (1, 2, 3)


class PooledClassifier(nn.Module):
    """The classifier above an encoder.

    Args:
        config: Its shape.
        feature_dim: D, of the encoder's frames.
        num_languages: L.
        dropout: Share of values zeroed in training, of frames and before the last layer.
    """

    def __init__(self, config: PooledConfig, feature_dim: int, num_languages: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels = config.channels
        self.norm = nn.LayerNorm(feature_dim)
        self.projection = nn.Linear(feature_dim, channels)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, config.kernel_size, dilation=dilation, padding="same")
            for dilation in DILATIONS
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in DILATIONS)
        self.attention = nn.Sequential(
            nn.Linear(channels, config.attention_channels),
            nn.Tanh(),
            nn.Linear(config.attention_channels, channels),
        )
        self.hidden = nn.Linear(2 * channels, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, num_languages)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        """Logits [B, L] of frames [B, F, D], of which num_frames [B], at least 1, belong to each clip."""
        is_own = (torch.arange(frames.shape[1], device=frames.device) < num_frames[:, None])[:, :, None]
        counts = num_frames[:, None, None]
        frames = frames * is_own
        x = self.projection(self.dropout(self.norm(frames - frames.sum(dim=1, keepdim=True) / counts))) * is_own
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + F.gelu(norm(conv(x.transpose(1, 2)).transpose(1, 2))) * is_own
        weights = self.attention(x).masked_fill(~is_own, -torch.inf).softmax(dim=1)
        mean = (weights * x).sum(dim=1)
        deviation = (weights * (x - mean[:, None]).square()).sum(dim=1).clamp(min=1e-6).sqrt()
        pooled = torch.cat([mean, deviation], dim=1)
        logits: Tensor = self.out(self.dropout(F.gelu(self.hidden(self.dropout(pooled)))))
        return logits
