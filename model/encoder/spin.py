"""Speaker-invariant clustering: a frame is told the code that the same moment has in another voice.

Chang et al. 2023, "Self-supervised Fine-tuning for Improved Content Representations by Speaker-invariant Clustering"
(Spin); assigning codes as in Caron et al. 2020, "SwAV":

    clean, perturbed [B, S] -> HuBERT up to a layer [B, F, D] -> projection, unit length [B, F, E]
        -> cosine with each code [B, F, K]
    codes assigned to the clean view, each equally often within a corpus, are what the perturbed view must predict

Two things differ. Only the perturbed view is trained: the clean one is half of the cost and what will be encoded. And
codes are made equally frequent within each corpus, so that no code can stand for a corpus, say the synthesized one.
Where the phones of some clips are known, a linear layer predicts those as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.records import NO_PHONE

if TYPE_CHECKING:
    from model.encoder.hubert import HubertModel
    from model.encoder.spin_config import SpinConfig

# A frame this far below the loudest one of its crop is quiet.
QUIET_DB = -35.0


class SpinLoss(NamedTuple):
    """Losses of one forward pass: sums, and the numbers of frames to divide them by.

    Attributes:
        code_nll: Cross-entropy of the codes assigned to the clean view, in nats.
        same_code: Frames whose likeliest code is the same in both views.
        num_frames: Frames that counted for these two.
        phone_nll: Negative log-likelihood of the phones in the perturbed view, in nats.
        phone_correct: Frames whose likeliest phone is the right one.
        num_phones: Frames whose phone is known.
    """

    code_nll: Tensor
    same_code: Tensor
    num_frames: Tensor
    phone_nll: Tensor
    phone_correct: Tensor
    num_phones: Tensor


class Spin(nn.Module):
    """A HuBERT, codes, and a classifier of phones if there are any.

    Args:
        config: Settings of the loss.
        body: The HuBERT that is tuned; its batch norms keep their statistics.
        phone_sets: [C, P] bool, which phones there are in each corpus: a frame's compete with those of its corpus, as
            corpora may call one sound by two names. P of 0: none are predicted.
    """

    phone_sets: Tensor

    def __init__(self, config: SpinConfig, body: HubertModel, phone_sets: Tensor) -> None:
        super().__init__()
        self.config = config
        self.body = body
        width = body.config.hidden_size
        self.projection = nn.Linear(width, config.code_dim)
        self.codes = nn.Parameter(F.normalize(torch.randn(config.num_codes, config.code_dim), dim=-1))
        num_phones = phone_sets.shape[1]
        self.phones = nn.Linear(width, num_phones) if num_phones else None
        self.register_buffer("phone_sets", phone_sets, persistent=False)
        body.encoder.layers[config.layer :].requires_grad_(False)
        body.feature_extractor.requires_grad_(config.train_convolutions)

    def train(self, mode: bool = True) -> Spin:
        """Training mode for all but the HuBERT: what it does in training must be what it does when it encodes."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, clean: Tensor, perturbed: Tensor, phones: Tensor, corpora: Tensor, counts: Tensor) -> SpinLoss:
        """The losses of a batch.

        Args:
            clean: [B, S] float32 samples at 16 kHz, at the config's level.
            perturbed: [B, S] another view of each, with every sound at the same time.
            phones: [B, F] int64 phone of each frame, NO_PHONE where none is known.
            corpora: [B] int64 number of each clip's corpus.
            counts: [B, F] which frames count for the codes.
        """
        with torch.no_grad():
            clean_scores = self._scores(self._features(clean))
        hidden = self._features(perturbed)
        scores = self._scores(hidden)
        code_nll = scores.new_zeros(())
        for corpus in sorted(set(corpora.tolist())):
            is_in = counts & (corpora == corpus)[:, None]
            assigned = assign_codes(clean_scores[is_in], self.config.sinkhorn_epsilon, self.config.sinkhorn_steps)
            predicted = F.log_softmax(scores[is_in] / self.config.temperature, dim=-1)
            code_nll = code_nll - (assigned * predicted).sum()
        same_code = (clean_scores.argmax(-1) == scores.argmax(-1))[counts].sum()
        phone_nll, phone_correct = scores.new_zeros(()), same_code.new_zeros(())
        has_phone = phones != NO_PHONE
        if self.phones is not None:
            logits = self.phones(hidden[has_phone]).float()
            competes = self.phone_sets[corpora[:, None].expand_as(phones)[has_phone]]
            logits = logits.masked_fill(~competes, float("-inf"))
            phone_nll = F.cross_entropy(logits, phones[has_phone], reduction="sum")
            phone_correct = (logits.argmax(-1) == phones[has_phone]).sum()
        return SpinLoss(code_nll, same_code, counts.sum(), phone_nll, phone_correct, has_phone.sum())

    def _features(self, wav: Tensor) -> Tensor:
        """wav [B, S] -> features [B, F, D]; without a gradient in the convolutions unless they are trained."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_convolutions):
            frames = self.body.feature_extractor(wav, None)
        hidden = self.body.encoder.embed(self.body.feature_projection(frames), None)
        for layer in self.body.encoder.layers[: self.config.layer]:
            hidden = layer(hidden, None)
        return hidden

    def _scores(self, hidden: Tensor) -> Tensor:
        """hidden [B, F, D] -> cosine with each code [B, F, K]."""
        projected = F.normalize(self.projection(hidden).float(), dim=-1)
        return projected @ F.normalize(self.codes.float(), dim=-1).T


@torch.no_grad()
def assign_codes(scores: Tensor, epsilon: float, num_steps: int) -> Tensor:
    """Shares of the codes in each frame, from scores [M, K]: each frame sums to 1, each code to about M / K.

    Sinkhorn's algorithm on exp(scores / epsilon) (Cuturi 2013; SwAV, appendix A).
    """
    shares = ((scores - scores.max()) / epsilon).exp() if len(scores) else scores
    for _ in range(num_steps):
        shares = shares / shares.sum(dim=0, keepdim=True).clamp_min(1e-9)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-9)
    return shares
