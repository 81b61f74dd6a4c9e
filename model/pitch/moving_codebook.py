"""A codebook that follows the encoder's outputs by exponential moving averages; codes that die are revived.

Source: van den Oord et al. 2017, "Neural discrete representation learning", appendix A.1; Dhariwal et al. 2020,
"Jukebox", section 3: a code whose average use falls below a threshold becomes a random output of the encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from model.training.distributed import Ranks

# Of the noise on copies, where a batch has fewer outputs than there are codes; over the root of their dimensions.
COPY_NOISE = 0.01


class MovingCodebook(nn.Module):
    """The averages behind a codebook [K, D], which it changes in place.

    Its state is the sums [K, D] and counts [K] of the outputs of each code. Counts of zero: it has seen no batch yet.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, codebook: Tensor, decay: float, dead_below: float) -> None:
        super().__init__()
        self._codebook = [codebook]  # in a list: it belongs to the model, not to this module's state
        self._decay = decay
        self._dead_below = dead_below
        self.register_buffer("sums", torch.zeros_like(codebook))
        self.register_buffer("counts", torch.zeros(len(codebook), device=codebook.device))

    @torch.no_grad()
    def begin(self, latents: Tensor, ranks: Ranks) -> None:
        """Takes the codes from a first batch's outputs [n, D], if there was none yet, in the main process."""
        if self.counts.any():
            return
        self._codebook[0].copy_(self._draw(latents, ranks))
        self.sums.copy_(self._codebook[0])
        self.counts.fill_(1.0)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor, ranks: Ranks) -> int:
        """Follows a batch: its outputs [n, D] and their codes [n] in this process, summed over all.

        Returns:
            The number of codes that were revived.
        """
        is_of_code = F.one_hot(codes, len(self.counts)).to(latents.dtype)
        together = torch.cat([is_of_code.T @ latents, is_of_code.sum(0)[:, None]], dim=1)
        ranks.sum(together)
        self.sums.mul_(self._decay).add_(together[:, :-1], alpha=1 - self._decay)
        self.counts.mul_(self._decay).add_(together[:, -1], alpha=1 - self._decay)
        is_dead = self.counts < self._dead_below
        means = self.sums / self.counts.clamp(min=1e-6)[:, None]
        self._codebook[0].copy_(torch.where(is_dead[:, None], self._draw(latents, ranks), means))
        return int(is_dead.sum())

    def _draw(self, latents: Tensor, ranks: Ranks) -> Tensor:
        """As many of the main process's outputs as there are codes, drawn at random."""
        num_codes, dim = self._codebook[0].shape
        if len(latents) < num_codes:
            latents = latents.repeat(-(-num_codes // len(latents)), 1)
            latents = latents + torch.randn(latents.shape).to(latents) * COPY_NOISE / dim**0.5
        # Drawn on the CPU, whose generator every device shares.
        drawn = latents[torch.randperm(len(latents))[:num_codes].to(latents.device)].contiguous()
        ranks.copy_from_main([drawn])
        return drawn
