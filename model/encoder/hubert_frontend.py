"""HuBERT's convolutions over the waveform: wav [B, S] -> frames [B, F, C].

Everything is laid out channels last, [B, T, C], so that a convolution is one matrix product over windows of `kernel`
time steps. Windows that do not overlap are views of the input; overlapping ones are copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.packed_linear import PackedLinear

if TYPE_CHECKING:
    from model.encoder.hubert_config import HubertConfig

# Frames that the CPU computes at once: few enough that what passes between layers stays in its cache.
FRAMES_PER_TILE = 64
# Windows of the waveform per matrix product when their covariance is computed.
WINDOWS_PER_BLOCK = 1024


class FeatureExtractor(nn.Module):
    """All convolutions: wav [B, S] -> frames [B, F, C]."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        norm_channels = config.feat_extract_norm == "layer"
        layers: list[nn.Module] = [
            FirstConvLayer(
                config.conv_dim[0], config.conv_kernel[0], config.conv_stride[0], config.conv_bias, norm_channels
            )
        ]
        for i in range(1, len(config.conv_dim)):
            C_in, C_out = config.conv_dim[i - 1 : i + 1]
            layers.append(
                ConvLayer(C_in, C_out, config.conv_kernel[i], config.conv_stride[i], config.conv_bias, norm_channels)
            )
        self.conv_layers = nn.ModuleList(layers)

    def forward(self, wav: Tensor, num_samples: Tensor | None) -> Tensor:
        """wav [B, S], `num_samples` [B] of each without padding (None: all S) -> frames [B, F, C]."""
        first_layer = self.conv_layers[0]
        assert isinstance(first_layer, FirstConvLayer)
        weight, bias = first_layer.folded(wav, num_samples)
        hop, receptive_field = self.config.hop_samples, self.config.receptive_field_samples
        num_frames = self.config.num_frames(wav.shape[1])
        tile_frames = FRAMES_PER_TILE if wav.device.type == "cpu" else num_frames
        tiles = []
        for start in range(0, num_frames, tile_frames):
            end = min(start + tile_frames, num_frames)
            frames = first_layer(wav[:, start * hop : (end - 1) * hop + receptive_field], weight, bias)
            for conv_layer in self.conv_layers[1:]:
                frames = conv_layer(frames)
            tiles.append(frames)
        return torch.cat(tiles, dim=1)

    def pack(self) -> None:
        """Packs the current weights of all layers but the first for inference on the CPU."""
        for conv_layer in self.conv_layers:
            if isinstance(conv_layer, ConvLayer):
                conv_layer.pack()


class FirstConvLayer(nn.Module):
    """Convolution over the waveform, group norm over time (Base) or layer norm over channels (Large), GELU.

    Group norm is folded into the convolution. A channel is a linear map of windows of `kernel` samples, so its mean
    and variance over time follow from the windows' own mean and covariance, without computing the channel first.
    """

    def __init__(self, out_channels: int, kernel: int, stride: int, bias: bool, norm_channels: bool) -> None:
        super().__init__()
        self.output_dtype = torch.float32
        """What the layers above compute in; this layer's own weights stay in float32."""
        self.conv = nn.Conv1d(1, out_channels, kernel, stride, bias=bias)
        self.layer_norm: nn.LayerNorm | nn.GroupNorm
        if norm_channels:
            self.layer_norm = nn.LayerNorm(out_channels)
        else:
            self.layer_norm = nn.GroupNorm(out_channels, out_channels)

    def folded(self, wav: Tensor, num_samples: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight [B or 1, kernel, C] and bias [B or 1, 1, C] to convolve wav [B, S] with, group norm included."""
        weight = self.conv.weight[:, 0].T[None]
        if isinstance(self.layer_norm, nn.LayerNorm):
            bias = torch.zeros_like(weight[:, :1]) if self.conv.bias is None else self.conv.bias[None, None]
            return weight, bias
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        most_windows = (wav.shape[1] - kernel) // stride + 1
        num_windows = torch.full((len(wav),), most_windows, device=wav.device)
        if num_samples is not None:
            num_windows = (num_samples - kernel) // stride + 1
        num_windows = num_windows[:, None, None]
        # Windows are multiplied in many short blocks: a few long products of this few columns would leave a GPU idle.
        num_blocks = -(-most_windows // WINDOWS_PER_BLOCK)
        whole_blocks_samples = (num_blocks * WINDOWS_PER_BLOCK - 1) * stride + kernel
        # In float64: filters that cancel most of the signal leave a variance far below that of the windows.
        windows = self._windows(F.pad(wav, (0, whole_blocks_samples - wav.shape[1]))).double()
        is_own = torch.arange(windows.shape[1], device=wav.device)[:, None] < num_windows  # [B, T, 1]
        mean = (windows * is_own).sum(dim=1, keepdim=True) / num_windows
        blocks = ((windows - mean) * is_own).view(len(wav), num_blocks, WINDOWS_PER_BLOCK, kernel)
        covariance = (blocks.transpose(2, 3) @ blocks).sum(dim=1) / num_windows
        weight = weight.double()
        variance = (weight * (covariance @ weight)).sum(dim=1, keepdim=True)
        scale = self.layer_norm.weight / (variance + self.layer_norm.eps).sqrt()
        # The convolution's own bias shifts the mean as well, and so cancels out.
        bias = self.layer_norm.bias - mean @ weight * scale
        return (weight * scale).to(self.conv.weight.dtype), bias.to(self.conv.weight.dtype)

    def forward(self, wav: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """wav [B, S], weight and bias as `folded` gives them -> channels [B, T, C]."""
        weight, bias = weight.expand(len(wav), -1, -1), bias.expand(len(wav), -1, -1)
        # The layers above are trained in mixed precision, which would blur the waveform.
        with torch.autocast(wav.device.type, enabled=False):
            if isinstance(self.layer_norm, nn.LayerNorm):
                channels = self.layer_norm(torch.baddbmm(bias, self._windows(wav), weight))
            elif self.output_dtype == torch.bfloat16:
                channels = self._product_of_halves(wav, weight, bias)
            else:
                channels = torch.baddbmm(bias, self._windows(wav), weight)
            return F.gelu(channels).to(self.output_dtype)

    def _product_of_halves(self, wav: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The float32 result rounded to bfloat16, at bfloat16's speed and without float32's memory traffic.

        Each number is split into two bfloat16 numbers with 16 bits of mantissa together; sums are float32 anyway.
        """
        wav_high, wav_low = _halves(wav)
        weight_high, weight_low = _halves(weight)
        high = self._windows(wav_high)
        rows = torch.cat([high, self._windows(wav_low), high, torch.ones_like(high[..., :2])], dim=2)
        return rows @ torch.cat([weight_high, weight_high, weight_low, *_halves(bias)], dim=1)

    def _windows(self, wav: Tensor) -> Tensor:
        return wav.unfold(1, self.conv.kernel_size[0], self.conv.stride[0])  # [B, T, kernel]


class ConvLayer(nn.Module):
    """Convolution, layer norm over channels (Large only), GELU: [B, T, C] -> [B, T', C']."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool, norm_channels: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, bias=bias)
        self.layer_norm = nn.LayerNorm(out_channels) if norm_channels else None
        self._packed: PackedLinear | None = None

    def pack(self) -> None:
        """Packs this layer's current weights for inference on the CPU."""
        self._packed = PackedLinear(self._matrix(), self.conv.bias, gelu=self.layer_norm is None)

    def forward(self, channels: Tensor) -> Tensor:
        if self.training:
            channels = self._sum_of_products(channels)
        elif self._packed is None:
            channels = F.linear(self._windows(channels), self._matrix(), self.conv.bias)
        else:
            channels = self._packed(self._windows(channels))
            if self.layer_norm is None:
                return channels
        if self.layer_norm is not None:
            channels = self.layer_norm(channels)
        return F.gelu(channels)

    def _windows(self, channels: Tensor) -> Tensor:
        return channels.unfold(1, self.conv.kernel_size[0], self.conv.stride[0]).transpose(2, 3).flatten(2)

    def _sum_of_products(self, channels: Tensor) -> Tensor:
        """The convolution without overlapping windows, whose gradient would have to be gathered number by number.

        Time is cut into steps of one stride. A window covers some whole steps and perhaps the start of another.
        """
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        num_windows = (channels.shape[1] - kernel) // stride + 1
        num_steps = num_windows - 1 + -(-kernel // stride)
        missing = max(0, num_steps * stride - channels.shape[1])
        whole_steps = F.pad(channels, (0, 0, 0, missing))[:, : num_steps * stride]
        steps = whole_steps.reshape(len(channels), num_steps, -1)
        products = self.conv.bias
        for i, part in enumerate(torch.split(self._matrix(), steps.shape[2], dim=1)):
            product = F.linear(steps[:, i : i + num_windows, : part.shape[1]], part)
            products = product if products is None else products + product
        assert products is not None
        return products

    def _matrix(self) -> Tensor:
        return self.conv.weight.transpose(1, 2).flatten(1)  # [C', kernel * C]


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """x float32 -> high and low, both bfloat16, whose sum is nearly x."""
    high = x.bfloat16()
    return high, (x - high).bfloat16()
