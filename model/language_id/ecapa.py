"""ECAPA-TDNN as a classifier of languages: the network of SpeechBrain's VoxLingua107 model, without SpeechBrain.

1. 60 log-mel energies of 25 ms windows every 10 ms, less their mean over the clip.
2. A convolution, three residual blocks (Res2Net, then squeeze-and-excitation), a convolution over all their outputs.
3. Mean and standard deviation over time, weighted by attention for each channel; an embedding of 256.
4. A hidden layer and a logit for each language.

Source: Desplanques et al., 2020 (arxiv.org/abs/2005.07143); Valk and Alumae, 2021 (VoxLingua107). Modules are
named like the official checkpoint's tensors, so that it loads unchanged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.records import SAMPLE_RATE_HZ

WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
AMPLITUDE_FLOOR, RANGE_DB = 1e-10, 80.0
RES2NET_SCALE = 8
KERNEL_SIZES, DILATIONS = (5, 3, 3, 3, 1), (1, 2, 3, 4, 1)


class EcapaClassifier(nn.Module):
    """wav [B, S] at 16 kHz -> log-probabilities of languages [B, L]; clips of one batch are equally long.

    Args:
        num_languages: L.
        num_mels: Bands of the spectrum.
        channels: Channels of the first four layers.
        pooled_channels: Channels of the layer that joins them.
        attention_channels: Channels of the attention in the pooling.
        squeeze_channels: Channels inside squeeze-and-excitation.
        embedding_dim: Width of the embedding.
        hidden_dim: Width of the classifier's hidden layer.
    """

    def __init__(
        self,
        num_languages: int,
        num_mels: int = 60,
        channels: int = 1024,
        pooled_channels: int = 3072,
        attention_channels: int = 128,
        squeeze_channels: int = 128,
        embedding_dim: int = 256,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__()
        self.features = LogMel(num_mels)
        self.embedding_model = _Embedding(
            num_mels, channels, pooled_channels, attention_channels, squeeze_channels, embedding_dim
        )
        self.classifier = _Classifier(embedding_dim, hidden_dim, num_languages)

    def forward(self, wav: Tensor) -> Tensor:
        features = self.features(wav)
        embedding = self.embedding_model(features - features.mean(dim=2, keepdim=True))
        log_probabilities: Tensor = self.classifier(embedding)
        return log_probabilities


class LogMel(nn.Module):
    """wav [B, S] -> energies in dB [B, num_mels, F], clamped to 80 dB below the clip's loudest."""

    filters: Tensor
    window: Tensor

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hamming_window(WINDOW_SAMPLES), persistent=False)
        self.register_buffer("filters", _triangles(num_mels), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        spectrum = torch.stft(
            wav,
            n_fft=WINDOW_SAMPLES,
            hop_length=HOP_SAMPLES,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        decibels = 10 * torch.log10((self.filters @ power).clamp(min=AMPLITUDE_FLOOR))
        return torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - RANGE_DB)


def _triangles(num_mels: int) -> Tensor:
    """Filters [num_mels, bins], evenly spaced in mels; each falls to zero as far above its centre as below."""
    highest_mel = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE_HZ / 2 / 700, dtype=torch.float64))
    mels = torch.linspace(0, float(highest_mel), num_mels + 2)
    edges_hz = 700 * (10 ** (mels / 2595) - 1)
    widths_hz = (edges_hz[1:] - edges_hz[:-1])[:-1, None]
    frequencies_hz = torch.linspace(0, SAMPLE_RATE_HZ // 2, WINDOW_SAMPLES // 2 + 1)
    return (1 - ((frequencies_hz - edges_hz[1:-1, None]) / widths_hz).abs()).clamp(min=0)


class _Conv(nn.Module):
    """A convolution that keeps the length by reflecting its input at both ends."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.padding = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (self.padding, self.padding), mode="reflect") if self.padding else x)
        return out


class _Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class _Tdnn(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = _Conv(in_channels, out_channels, kernel_size, dilation)
        self.norm = _Norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(F.relu(self.conv(x)))
        return out


class _Res2Net(nn.Module):
    """Convolves groups of channels in turn, adding the previous output from the third on; the first stays as it is."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        width = channels // RES2NET_SCALE
        self.blocks = nn.ModuleList(_Tdnn(width, width, kernel_size, dilation) for _ in range(RES2NET_SCALE - 1))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.chunk(RES2NET_SCALE, dim=1)
        out = [groups[0]]
        for number, (group, block) in enumerate(zip(groups[1:], self.blocks, strict=True)):
            out.append(block(group + out[-1] if number else group))
        return torch.cat(out, dim=1)


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.conv1 = _Conv(channels, squeeze_channels)
        self.conv2 = _Conv(squeeze_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean(dim=2, keepdim=True)))))


class _Block(nn.Module):
    def __init__(self, channels: int, kernel_size: int, dilation: int, squeeze_channels: int) -> None:
        super().__init__()
        self.tdnn1 = _Tdnn(channels, channels)
        self.res2net_block = _Res2Net(channels, kernel_size, dilation)
        self.tdnn2 = _Tdnn(channels, channels)
        self.se_block = _SqueezeExcite(channels, squeeze_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x)))) + x
        return out


class _AttentivePooling(nn.Module):
    """x [B, C, F] -> mean and standard deviation of each channel, weighted over time [B, 2C, 1]."""

    def __init__(self, channels: int, attention_channels: int) -> None:
        super().__init__()
        self.tdnn = _Tdnn(3 * channels, attention_channels)
        self.conv = _Conv(attention_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        even = torch.full_like(x[:, :1], 1 / x.shape[2])
        overall = [statistic.expand_as(x) for statistic in _statistics(x, even)]
        weights = self.conv(torch.tanh(self.tdnn(torch.cat([x, *overall], dim=1)))).softmax(dim=2)
        return torch.cat(_statistics(x, weights), dim=1)


def _statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (weights * x).sum(dim=2, keepdim=True)
    variance = (weights * (x - mean).square()).sum(dim=2, keepdim=True)
    return mean, variance.clamp(min=1e-12).sqrt()


class _Embedding(nn.Module):
    """features [B, num_mels, F] -> embedding [B, D]."""

    def __init__(
        self,
        num_mels: int,
        channels: int,
        pooled_channels: int,
        attention_channels: int,
        squeeze_channels: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        blocks = [
            _Block(channels, kernel_size, dilation, squeeze_channels)
            for kernel_size, dilation in zip(KERNEL_SIZES[1:4], DILATIONS[1:4], strict=True)
        ]
        self.blocks = nn.ModuleList([_Tdnn(num_mels, channels, KERNEL_SIZES[0], DILATIONS[0]), *blocks])
        self.mfa = _Tdnn(3 * channels, pooled_channels, KERNEL_SIZES[4], DILATIONS[4])
        self.asp = _AttentivePooling(pooled_channels, attention_channels)
        self.asp_bn = _Norm(2 * pooled_channels)
        self.fc = _Conv(2 * pooled_channels, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        embedding: Tensor = self.fc(self.asp_bn(self.asp(self.mfa(torch.cat(outputs[1:], dim=1)))))
        return embedding[:, :, 0]


class _Linear(nn.Module):
    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.w = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w(x)
        return out


class _Classifier(nn.Module):
    def __init__(self, embedding_dim: int, hidden_dim: int, num_languages: int) -> None:
        super().__init__()
        self.norm = _Norm(embedding_dim)
        hidden = nn.ModuleDict({"linear": _Linear(embedding_dim, hidden_dim), "norm": _Norm(hidden_dim)})
        self.DNN = nn.ModuleDict({"block_0": hidden})
        self.out = _Linear(hidden_dim, num_languages)

    def forward(self, embedding: Tensor) -> Tensor:
        hidden = self.DNN["block_0"]
        assert isinstance(hidden, nn.ModuleDict)
        x = hidden["linear"](self.norm(F.leaky_relu(embedding)))
        return F.log_softmax(self.out(hidden["norm"](F.leaky_relu(x))), dim=1)
