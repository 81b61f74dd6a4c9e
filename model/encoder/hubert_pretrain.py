"""HuBERT's pretraining task: predict the units of masked frames from the frames around them.

Hsu et al. 2021, "HuBERT", section 3; fairseq's `models/hubert` and `criterions/hubert_criterion.py`:

    wav [B, S] -> convolutions -> projection, where masked frames are replaced by one learned vector -> Transformer
        -> projection [B, F, E] -> cosine with an embedding [K, E] of each unit, over a temperature -> logits [B, F, K]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encoder.hubert import HubertModel

if TYPE_CHECKING:
    from model.encoder.pretrain_config import PretrainConfig

# Standard deviation of the Transformer's new weights (BERT's, as in fairseq).
WEIGHT_STD = 0.02


class PretrainLoss(NamedTuple):
    """Losses of one micro-batch: sums over its frames, which a step divides by its frames in all micro-batches.

    Attributes:
        masked_nll: Negative log-likelihood of the masked frames' units, in nats.
        masked_correct: Number of masked frames whose likeliest unit is the right one.
        unmasked_nll: Negative log-likelihood of the other frames' units, in nats.
        unmasked_correct: Number of other frames whose likeliest unit is the right one.
        feature_penalty: Mean square of the convolutions' output.
    """

    masked_nll: Tensor
    masked_correct: Tensor
    unmasked_nll: Tensor
    unmasked_correct: Tensor
    feature_penalty: Tensor


class HubertPretraining(nn.Module):
    """A HuBERT with its pretraining head.

    Args:
        config: Shape of the model and settings of the loss.
        codebook_size: Number of different labels, K.
    """

    def __init__(self, config: PretrainConfig, codebook_size: int) -> None:
        super().__init__()
        self.config = config
        self.body = HubertModel(config.model, config.dropout)
        self._initialize()
        self.mask_embedding = nn.Parameter(torch.rand(config.model.hidden_size))
        self.final_projection = nn.Linear(config.model.hidden_size, config.embedding_dim)
        self.unit_embeddings = nn.Parameter(torch.rand(codebook_size, config.embedding_dim))

    def take_over(self, body: HubertModel) -> tuple[int, int]:
        """Copies those weights of another HuBERT that have the same name and shape here.

        Returns:
            Tensors copied, and tensors in all.
        """
        mine = self.body.state_dict()
        fitting = {
            name: weight
            for name, weight in body.state_dict().items()
            if name in mine and weight.shape == mine[name].shape
        }
        self.body.load_state_dict(fitting, strict=False)
        return len(fitting), len(mine)

    def forward(self, wav: Tensor, units: Tensor, is_masked: Tensor) -> PretrainLoss:
        """The loss of a batch.

        Args:
            wav: [B, S] float32 samples at 16 kHz, without padding.
            units: [B, F] int64 labels of the frames.
            is_masked: [B, F] which frames are hidden from the model.
        """
        frames = _scale_gradient(self.body.feature_extractor(wav, None), self.config.feature_gradient_scale)
        feature_penalty = frames.float().square().mean()
        hidden = self.body.feature_projection(frames)
        hidden = torch.where(is_masked[..., None], self.mask_embedding.to(hidden.dtype), hidden)
        hidden = self._transformer(hidden)
        masked_nll, masked_correct = self._score(hidden[is_masked], units[is_masked])
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.unmasked_weight > 0):
            unmasked_nll, unmasked_correct = self._score(hidden[~is_masked], units[~is_masked])
        return PretrainLoss(masked_nll, masked_correct, unmasked_nll, unmasked_correct, feature_penalty)

    def _transformer(self, hidden: Tensor) -> Tensor:
        encoder = self.body.encoder
        hidden = encoder.embed(hidden, None)
        for layer in encoder.layers:
            # Drawn from torch's generator, which the trainer seeds at each step.
            if not self.training or float(torch.rand(())) >= self.config.layer_drop:
                hidden = layer(hidden, None)
        if self.config.model.do_stable_layer_norm:
            hidden = encoder.layer_norm(hidden)
        return hidden

    def _score(self, hidden: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [M, D], units [M] -> the sum of their negative log-likelihoods, and how many are predicted right."""
        projected = F.normalize(self.final_projection(hidden).float(), dim=-1)
        logits = projected @ F.normalize(self.unit_embeddings.float(), dim=-1).T / self.config.logit_temperature
        nll = F.cross_entropy(logits.float(), units, reduction="sum")
        return nll, (logits.argmax(dim=-1) == units).sum()

    def _initialize(self) -> None:
        """Initial weights as in fairseq: Kaiming normal for the convolutions, BERT's normal for the Transformer."""
        for conv_layer in self.body.feature_extractor.conv_layers:
            nn.init.kaiming_normal_(conv_layer.conv.weight)  # type: ignore[union-attr, arg-type]
        for module in self.body.encoder.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=WEIGHT_STD)
                nn.init.zeros_(module.bias)
        positional_conv = self.body.encoder.pos_conv_embed.conv
        kernel, channels = positional_conv.kernel_size[0], positional_conv.in_channels
        weight = torch.empty_like(positional_conv.weight).normal_(std=(4 / (kernel * channels)) ** 0.5)
        with torch.no_grad():
            positional_conv.weight = nn.Parameter(weight) if self.config.model.conv_pos_batch_norm else weight
            nn.init.zeros_(positional_conv.bias)  # type: ignore[arg-type]


def _scale_gradient(frames: Tensor, scale: float) -> Tensor:
    """`frames` unchanged, with their gradient multiplied by `scale`."""
    return frames.detach().lerp(frames, scale)
