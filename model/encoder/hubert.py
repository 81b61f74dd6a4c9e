"""HuBERT at 50 Hz and below: waveform -> convolutions -> Transformer -> features of a chosen layer.

Hsu et al. 2021, "HuBERT"; the 25 Hz model of Hassid et al. 2023, "Textually Pretrained Speech Language Models",
appendix A.1, has an eighth convolution (stride 2; 3 or 4 for 16.6 and 12.5 Hz) and batch norm before the positional
convolution. Modules and parameters carry the names of Hugging Face's HubertModel, so its weights load unchanged.

    wav [B, S] -> feature_extractor [B, F, C] -> feature_projection [B, F, D] -> encoder.embed (adds positions)
        -> encoder.layers[0] (layer 1) -> ... -> encoder.layers[-1]

Wavs of different lengths can share a batch; shorter ones are padded with zeros. The parts that look along time (the
first group norm, attention and the positional convolution) see only a wav's own samples and frames. The positional
convolution reads zeros past a wav's last frame, as it does for a wav alone; they are set after its batch norm, which
would turn them into other values.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from model.encoder.hubert_config import HubertConfig
from model.encoder.hubert_frontend import FeatureExtractor, FirstConvLayer
from model.packed_linear import can_pack, pack_linear_layers

# A positional convolution with fewer channels per group runs in float32 on a CPU; published models have 48 or more.
MIN_BFLOAT16_CHANNELS = 16


class HubertModel(nn.Module):
    """HuBERT without its pretraining head: features of any Transformer layer.

    Layers count from 1: `layer=11` is the output of the eleventh Transformer layer, which is `hidden_states[11]` of
    Hugging Face's model and `output_layer=11` of fairseq's. The last layer's features are its own output: with
    `do_stable_layer_norm` the model's closing layer norm is not part of them (as in fairseq, and in transformers 5).

    Args:
        config: shape of the model.
        dropout: share of values zeroed in training: in the Transformer's input, in attention and in the output of each
            half of a layer. It does not affect features in eval mode.
    """

    def __init__(self, config: HubertConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config, dropout)
        self.encoder = TransformerEncoder(config, dropout)

    def forward(self, wav: Tensor, layer: int, num_samples: Tensor | None = None) -> Tensor:
        """Features of one layer; the layers above it are not run.

        Args:
            wav: [B, S] float32 samples at 16 kHz.
            layer: 0 to `config.num_hidden_layers`; 0 is the first layer's input.
            num_samples: [B] length of each wav without padding, at least `config.receptive_field_samples`; None: all S.

        Returns:
            features [B, F, D] in the weights' dtype, F = `config.num_frames(S)`. In a padded wav only the first
            `config.num_frames(num_samples)` frames are meaningful.
        """
        assert 0 <= layer <= len(self.encoder.layers), f"layer {layer} of {len(self.encoder.layers)}"
        hidden, is_own = self._embed(wav, num_samples)
        for transformer_layer in self.encoder.layers[:layer]:
            hidden = transformer_layer(hidden, is_own)
        return hidden

    def all_layers(self, wav: Tensor) -> list[Tensor]:
        """Features [B, F, D] of layers 0 (the first layer's input) to `config.num_hidden_layers`, of wav [B, S]."""
        hidden = [self._embed(wav, None)[0]]
        for transformer_layer in self.encoder.layers:
            hidden.append(transformer_layer(hidden[-1], None))
        return hidden

    def for_inference(self, dtype: torch.dtype, device: torch.device) -> "HubertModel":
        """Prepares this model to encode on `device` with weights in `dtype`, and returns it; this cannot be undone.

        It goes into eval mode without gradients, weight norm is folded in, and on a CPU weights are packed for its
        matrix products.

        The first convolution and its norm keep float32 weights: they read the waveform itself, whose quiet parts
        bfloat16's eight bits of mantissa would blur, and cost under 1% of the arithmetic.
        """
        positional_conv = self.encoder.pos_conv_embed.conv
        if is_parametrized(positional_conv):
            remove_parametrizations(positional_conv, "weight", leave_parametrized=True)
        self.eval().requires_grad_(False)
        first_layer = deepcopy(self.feature_extractor.conv_layers[0])
        assert isinstance(first_layer, FirstConvLayer)
        first_layer.output_dtype = dtype
        self.to(dtype)
        self.feature_extractor.conv_layers[0] = first_layer
        if can_pack(dtype, device):
            self.feature_extractor.pack()
            pack_linear_layers(self)
        return self.to(device)

    def _embed(self, wav: Tensor, num_samples: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """wav [B, S] -> the first Transformer layer's input [B, F, D], and which frames are not padding [B, F].

        The latter is None if no frame is padding.
        """
        frames = self.feature_projection(self.feature_extractor(wav, num_samples))
        if num_samples is None:
            return self.encoder.embed(frames, None), None
        num_frames = (num_samples - self.config.receptive_field_samples) // self.config.hop_samples + 1
        is_own = torch.arange(frames.shape[1], device=frames.device) < num_frames[:, None]
        return self.encoder.embed(frames, is_own), is_own


class FeatureProjection(nn.Module):
    """Layer norm (where the config has it) and projection: frames [B, F, C] -> hidden [B, F, D]."""

    def __init__(self, config: HubertConfig, dropout: float) -> None:
        super().__init__()
        self.has_layer_norm = config.feat_proj_layer_norm
        if self.has_layer_norm:
            self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        if self.has_layer_norm:
            frames = self.layer_norm(frames)
        return self.dropout(self.projection(frames))  # type: ignore[no-any-return]


class TransformerEncoder(nn.Module):
    """Holds the positional convolution and the Transformer layers; HubertModel decides how many of them run."""

    def __init__(self, config: HubertConfig, dropout: float) -> None:
        super().__init__()
        self.do_stable_layer_norm = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConv(config)
        # With do_stable_layer_norm this norm follows the last layer, and no layer's features pass through it;
        # otherwise it precedes the first layer.
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(TransformerLayer(config, dropout) for _ in range(config.num_hidden_layers))

    def embed(self, frames: Tensor, is_own: Tensor | None) -> Tensor:
        """frames [B, F, D], of which `is_own` [B, F] are not padding (None: all) -> the first layer's input."""
        frames = frames + self.pos_conv_embed(frames, is_own)
        return self.dropout(frames if self.do_stable_layer_norm else self.layer_norm(frames))  # type: ignore[no-any-return]


class PositionalConv(nn.Module):
    """Relative positions from a wide grouped convolution over frames: [B, F, D] -> [B, F, D]."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        kernel = config.num_conv_pos_embeddings
        conv = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            kernel,
            padding=kernel // 2,
            groups=config.num_conv_pos_embedding_groups,
        )
        self.batch_norm = nn.BatchNorm1d(config.hidden_size) if config.conv_pos_batch_norm else None
        self.conv = conv if config.conv_pos_batch_norm else weight_norm(conv, dim=2)

    def forward(self, frames: Tensor, is_own: Tensor | None) -> Tensor:
        num_frames = frames.shape[1]
        if self.batch_norm is not None:
            frames = self.batch_norm(frames.flatten(0, 1)).view_as(frames)
        if is_own is not None:
            frames = frames * is_own[..., None]
        # As an image one pixel high: conv2d, unlike conv1d, takes channels last, which is how frames lie in memory.
        dtype = self._dtype_of_products(frames)
        channels = F.conv2d(
            frames.transpose(1, 2)[:, :, None].to(dtype),
            self.conv.weight[:, :, None].to(dtype),
            None if self.conv.bias is None else self.conv.bias.to(dtype),
            padding=(0, self.conv.kernel_size[0] // 2),
            groups=self.conv.groups,
        ).to(frames.dtype)
        # An even kernel gives one frame too many, at the end.
        return F.gelu(channels[:, :, 0, :num_frames].transpose(1, 2))

    def _dtype_of_products(self, frames: Tensor) -> torch.dtype:
        """The frames' dtype, but float32 for narrow groups on a CPU: with AMX, torch 2.13 gives noise in bfloat16."""
        is_narrow = self.conv.in_channels < MIN_BFLOAT16_CHANNELS * self.conv.groups
        return torch.float32 if is_narrow and frames.device.type == "cpu" else frames.dtype


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward with residuals, layer norm before ("stable") or after each: [B, F, D]."""

    def __init__(self, config: HubertConfig, dropout: float) -> None:
        super().__init__()
        self.norm_first = config.do_stable_layer_norm
        self.attention = Attention(config.hidden_size, config.num_attention_heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, is_own: Tensor | None) -> Tensor:
        if self.norm_first:
            hidden = hidden + self.dropout(self.attention(self.layer_norm(hidden), is_own))
            return hidden + self.dropout(self.feed_forward(self.final_layer_norm(hidden)))  # type: ignore[no-any-return]
        hidden = self.layer_norm(hidden + self.dropout(self.attention(hidden, is_own)))
        return self.final_layer_norm(hidden + self.dropout(self.feed_forward(hidden)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention over unpadded frames (`is_own` [B, F]; None: all): [B, F, D] -> [B, F, D]."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, is_own: Tensor | None) -> Tensor:
        query, key, value = (
            projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = None if is_own is None else is_own[:, None, None]
        attended = F.scaled_dot_product_attention(  # [B, heads, F, D / heads]
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(attended.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Linear, GELU, linear: [B, F, D] -> [B, F, D]."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(hidden_size, intermediate_size)
        self.output_dense = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output_dense(F.gelu(self.intermediate_dense(hidden)))  # type: ignore[no-any-return]
