"""The published unit HiFi-GAN, written from its description: a state dict and a config in, samples out.

Independent of model/vocoder/vocoder.py: float64 NumPy, one utterance at a time, convolutions as sums over taps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def weight(state: Mapping[str, Array], name: str) -> Array:
    """A weight, combined from norm and direction if it is stored as these."""
    for g, v in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        if f"{name}.{g}" in state:
            direction = state[f"{name}.{v}"]
            norm = np.sqrt((direction**2).sum(axis=tuple(range(1, direction.ndim)), keepdims=True))
            whole: Array = state[f"{name}.{g}"] * direction / norm
            return whole
    return state[f"{name}.weight"]


def conv(state: Mapping[str, Array], name: str, x: Array, padding: int, dilation: int = 1) -> Array:
    """x [C, T] -> [C', T']."""
    w, bias = weight(state, name), state[f"{name}.bias"]
    x = np.pad(x, ((0, 0), (padding, padding)))
    num_steps = x.shape[1] - dilation * (w.shape[2] - 1)
    taps = [w[:, :, k] @ x[:, k * dilation : k * dilation + num_steps] for k in range(w.shape[2])]
    result: Array = sum(taps) + bias[:, None]
    return result


def conv_transposed(state: Mapping[str, Array], name: str, x: Array, stride: int, padding: int) -> Array:
    """x [C, T] -> [C', T']."""
    w, bias = weight(state, name), state[f"{name}.bias"]
    kernel = w.shape[2]
    out = np.zeros((w.shape[1], (x.shape[1] - 1) * stride + kernel))
    for t in range(x.shape[1]):
        out[:, t * stride : t * stride + kernel] += np.einsum("c,cok->ok", x[:, t], w)
    cut: Array = out[:, padding : out.shape[1] - padding] + bias[:, None]
    return cut


def leaky(x: Array, slope: float) -> Array:
    """Leaky ReLU."""
    return np.where(x > 0, x, slope * x)


def layer_norm(state: Mapping[str, Array], name: str, x: Array) -> Array:
    """x [T, C], over C."""
    centred = x - x.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    result: Array = normed * state[f"{name}.weight"] + state[f"{name}.bias"]
    return result


def durations(state: Mapping[str, Array], units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frames of each unit."""
    x = state["dict.weight"][units].T
    kernel = weight(state, "dur_predictor.conv1.0").shape[2]
    x = np.maximum(conv(state, "dur_predictor.conv1.0", x, (kernel - 1) // 2), 0)
    x = layer_norm(state, "dur_predictor.ln1", x.T).T
    x = np.maximum(conv(state, "dur_predictor.conv2.0", x, 1), 0)
    x = layer_norm(state, "dur_predictor.ln2", x.T)
    logs = (x @ state["dur_predictor.proj.weight"].T + state["dur_predictor.proj.bias"])[:, 0]
    return np.maximum(np.round(np.exp(logs) - 1), 1).astype(np.int64)


def spread(x: Array, length: int) -> Array:
    """x [C, t] -> [C, length], each step repeated."""
    assert length % x.shape[1] == 0
    return np.repeat(x, length // x.shape[1], axis=1)


def speak(
    state: Mapping[str, Array],
    config: Mapping[str, Any],
    units: NDArray[np.int64],
    *,
    dur_prediction: bool,
    spkr: int | Array | None = None,
    style: int | None = None,
    f0: NDArray[Any] | None = None,
    f0_code: NDArray[np.int64] | None = None,
    style_code: NDArray[np.int64] | None = None,
) -> Array:
    """Samples [S]; the inputs' order is unit, code of f0, code of style, f0, speaker, style."""
    x = state["dict.weight"][units].T
    repeats = durations(state, units) if dur_prediction else np.ones(len(units), np.int64)
    x = np.repeat(x, repeats, axis=1)
    for name, code, hop in (("f0", f0_code, "f0_hop_size"), ("style", style_code, "style_hop_size")):
        if code is None:
            continue
        y = state[f"{name}_dict.weight"][code].T
        if len(code) == len(units):
            y = np.repeat(y, repeats, axis=1)
        else:
            y = np.repeat(y, round(config[hop] / config["code_hop_size"]), axis=1)[:, : x.shape[1]]
            y = np.concatenate([y, np.repeat(y[:, -1:], x.shape[1] - y.shape[1], axis=1)], axis=1)
        x = np.concatenate([x, y])
    if config.get("f0"):
        assert f0 is not None
        pitch = state["f0_quant_embed.weight"][f0].T if config.get("f0_quant_num_bin") else f0[None].astype(float)
        length = max(pitch.shape[1], x.shape[1])
        x = np.concatenate([spread(x, length), spread(pitch, length)])
    if config.get("multispkr"):
        if config.get("embedder_params"):
            vector = state["spkr.weight"] @ np.asarray(spkr) + state["spkr.bias"]
        else:
            vector = state["spkr.weight"][spkr]
        x = np.concatenate([x, spread(vector[:, None], x.shape[1])])
    if config.get("multistyle"):
        x = np.concatenate([x, spread(state["style.weight"][style][:, None], x.shape[1])])

    x = conv(state, "conv_pre", x, 3)
    num_kernels = len(config["resblock_kernel_sizes"])
    for i, (rate, kernel) in enumerate(zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True)):
        x = conv_transposed(state, f"ups.{i}", leaky(x, 0.1), rate, (kernel - rate) // 2)
        blocks = []
        for j in range(num_kernels):
            size, dilations = config["resblock_kernel_sizes"][j], config["resblock_dilation_sizes"][j]
            y = x
            for n, dilation in enumerate(dilations):
                name = f"resblocks.{i * num_kernels + j}"
                z = conv(state, f"{name}.convs1.{n}", leaky(y, 0.1), dilation * (size - 1) // 2, dilation)
                z = conv(state, f"{name}.convs2.{n}", leaky(z, 0.1), (size - 1) // 2)
                y = y + z
            blocks.append(y)
        x = sum(blocks) / num_kernels
    result: Array = np.tanh(conv(state, "conv_post", leaky(x, 0.01), 3))[0]
    return result
