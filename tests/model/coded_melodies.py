"""A pitch tokenizer whose codes say what one likes: its decoder is a table, written as convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model.pitch.model_config import PitchModelConfig
from model.pitch.vqvae import PitchVQVAE

if TYPE_CHECKING:
    from collections.abc import Sequence


def pitch_model_of(said: Sequence[tuple[float, bool]], num_halvings: int = 1) -> PitchVQVAE:
    """A tokenizer of these codes: how far F0 is from the mean in Hz, and whether it is voiced."""
    shape = PitchModelConfig(num_codes=len(said), code_dim=2, width=2, depth=1, num_halvings=num_halvings)
    model = PitchVQVAE(shape).requires_grad_(False)
    for parameter in model.decoder.parameters():
        parameter.zero_()  # what lies behind skip connections says nothing
    both = torch.eye(2)
    first, *stages = model.decoder.level_blocks[0].model  # type: ignore[misc, union-attr]
    first.weight[:, :, 1] = both
    for _, widened in stages:
        widened.weight[:, :, 1] = widened.weight[:, :, 2] = both  # each step twice
    model.decoder.out.weight[:, :, 1] = both
    model.codebook.copy_(torch.tensor([[hertz, float(is_voiced)] for hertz, is_voiced in said]))
    return model.eval()
