"""Losses of vocoder training: least-squares GAN, feature matching, durations and pitch (the trainer adds mel distance).

Source: Kong et al. 2020, section 2.2 (equations 1 to 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.vocoder.discriminators import Maps


def discriminator_loss(real: Sequence[Maps], made: Sequence[Maps]) -> Tensor:
    """Pulls scores of recorded audio to 1 and of the vocoder's audio to 0; summed over discriminators."""
    losses = [((1 - r[-1]) ** 2).mean() + (m[-1] ** 2).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).sum()


def adversarial_loss(made: Sequence[Maps]) -> Tensor:
    """Pulls scores of the vocoder's audio to 1; summed over discriminators."""
    return torch.stack([((1 - m[-1]) ** 2).mean() for m in made]).sum()


def feature_loss(real: Sequence[Maps], made: Sequence[Maps]) -> Tensor:
    """Mean absolute difference of real and made feature maps, summed over layers and discriminators."""
    pairs = [pair for r, m in zip(real, made, strict=True) for pair in zip(r[:-1], m[:-1], strict=True)]
    return torch.stack([F.l1_loss(m, r.detach()) for r, m in pairs]).sum()


def pitch_loss(scores: Tensor, codes: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of codes of pitch, summed, and how many units it is summed over.

    Args:
        scores: [B, N, K], as predicted.
        codes: [B, N], of each unit.
        durations: [B, N]; 0 in padding.
    """
    is_own = durations > 0
    return F.cross_entropy(scores.float()[is_own], codes[is_own], reduction="sum"), is_own.sum()


def duration_loss(log_durations: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of log(duration + 1), summed, and how many units it is summed over.

    The first and the last unit of a clip do not count, since its edges cut them short, but where it has no others.
    Source: speech-resynthesis leaves them out too.

    Args:
        log_durations: [B, N], as predicted.
        durations: [B, N] in frames; 0 in padding.
    """
    is_own = durations > 0
    num_units = is_own.sum(dim=1, keepdim=True)
    places = torch.arange(durations.shape[1], device=durations.device)
    counts = is_own & (((places > 0) & (places < num_units - 1)) | (num_units < 3))
    target = torch.log(durations.float() + 1)
    return ((log_durations.float() - target) ** 2 * counts).sum(), counts.sum()
