"""ECAPA-TDNN against a second implementation, written from the official layout: by tensor names, one step a line.

(SpeechBrain 1.1.2 itself, on weights that it saved, gave the same probabilities to 6e-8 when this was written.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import signal

from model.language_id.ecapa import LogMel
from tests.language_classifiers import ECAPA_LABELS, write_ecapa

if TYPE_CHECKING:
    from pathlib import Path


Array = "NDArray[np.float64]"
Weights = dict[str, np.ndarray]


def log_mel(wav: Array, num_mels: int) -> Array:
    """wav [S] -> [num_mels, F]."""
    padded = np.pad(wav, 200)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[at : at + 400] * window for at in range(0, len(padded) - 399, 160)])
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), num_mels + 2)
    hz = 700 * (10 ** (mels / 2595) - 1)
    bins_hz = np.linspace(0, 8000, 201)
    decibels = np.empty((num_mels, len(frames)))
    for band in range(num_mels):
        slope = (bins_hz - hz[band + 1]) / (hz[band + 1] - hz[band])
        triangle = np.maximum(0, np.minimum(slope + 1, 1 - slope))
        decibels[band] = 10 * np.log10(np.maximum(power @ triangle, 1e-10))
    return np.maximum(decibels, decibels.max() - 80)


def conv(x: Array, weights: Weights, name: str, dilation: int = 1) -> Array:
    """x [C, F] -> [C', F], mirrored at the ends."""
    weight, bias = weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"]
    size = weight.shape[2]
    reach = dilation * (size - 1) // 2
    padded = np.pad(x, ((0, 0), (reach, reach)), mode="reflect")
    taps = [weight[:, :, k] @ padded[:, k * dilation : k * dilation + x.shape[1]] for k in range(size)]
    return sum(taps) + bias[:, None]


def norm(x: Array, weights: Weights, name: str) -> Array:
    mean, variance = weights[f"{name}.norm.running_mean"], weights[f"{name}.norm.running_var"]
    scaled = (x.T - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.norm.weight"] + weights[f"{name}.norm.bias"]
    return scaled.T


def tdnn(x: Array, weights: Weights, name: str, dilation: int = 1) -> Array:
    return norm(np.maximum(conv(x, weights, f"{name}.conv", dilation), 0), weights, f"{name}.norm")


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.01 * x)


def probabilities(wav: Array, e: Weights, c: Weights) -> Array:
    features = log_mel(wav, e["blocks.0.conv.conv.weight"].shape[1])
    x = tdnn(features - features.mean(axis=1, keepdims=True), e, "blocks.0")
    outputs = []
    for block in (1, 2, 3):
        y = tdnn(x, e, f"blocks.{block}.tdnn1")
        groups = np.split(y, 8)
        parts = [groups[0]]
        for number in range(1, 8):
            given = groups[number] + (parts[-1] if number > 1 else 0)
            parts.append(tdnn(given, e, f"blocks.{block}.res2net_block.blocks.{number - 1}", block + 1))
        y = tdnn(np.concatenate(parts), e, f"blocks.{block}.tdnn2")
        squeezed = np.maximum(conv(y.mean(axis=1, keepdims=True), e, f"blocks.{block}.se_block.conv1"), 0)
        x = x + y * sigmoid(conv(squeezed, e, f"blocks.{block}.se_block.conv2"))
        outputs.append(x)
    x = tdnn(np.concatenate(outputs), e, "mfa")
    around = np.concatenate([x, *(np.repeat(s[:, None], x.shape[1], 1) for s in (x.mean(axis=1), x.std(axis=1)))])
    attention = conv(np.tanh(tdnn(around, e, "asp.tdnn")), e, "asp.conv")
    attention = np.exp(attention - attention.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    mean = (attention * x).sum(axis=1)
    deviation = np.sqrt((attention * (x - mean[:, None]) ** 2).sum(axis=1))
    pooled = norm(np.concatenate([mean, deviation])[:, None], e, "asp_bn")
    embedding = conv(pooled, e, "fc")[:, 0]
    y = norm(leaky(embedding), c, "norm")
    y = c["DNN.block_0.linear.w.weight"] @ y + c["DNN.block_0.linear.w.bias"]
    y = norm(leaky(y), c, "DNN.block_0.norm")
    logits = c["out.w.weight"] @ y + c["out.w.bias"]
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def as_arrays(path: Path) -> Weights:
    return {name: tensor.double().numpy() for name, tensor in torch.load(path, weights_only=True).items()}


@pytest.mark.parametrize("num_samples", [4_000, 16_000, 50_001])
def test_a_second_implementation_gives_the_same(tmp_path: Path, num_samples: int) -> None:
    model = write_ecapa(tmp_path)
    weights = [as_arrays(tmp_path / name) for name in ("embedding_model.ckpt", "classifier.ckpt")]
    wav = 0.1 * np.random.default_rng(num_samples).standard_normal(num_samples)
    wav = signal.lfilter([1.0], [1.0, -0.9], wav)
    with torch.inference_mode():
        told = model(torch.from_numpy(wav)[None].float()).exp()[0].numpy()
    assert told.shape == (len(ECAPA_LABELS),)
    np.testing.assert_allclose(told, probabilities(wav, *weights), atol=1e-4)


def test_features_of_silence_are_finite() -> None:
    features = LogMel(60)(torch.zeros(2, 8000))
    assert features.shape == (2, 60, 51)
    assert torch.isfinite(features).all()
