"""The published pitch VQ-VAE, written from its description: a state dict and a config in, codes and contours out.

Independent of model/pitch: float64 NumPy, one clip at a time, convolutions as sums over taps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from tests.model.published_vocoder import conv, conv_transposed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PARAMS: dict[str, Any] = {
    "input_emb_width": 2,
    "output_emb_width": 128,
    "levels": 1,
    "downs_t": [4],
    "strides_t": [2],
    "width": 32,
    "depth": 4,
    "m_conv": 1.0,
    "dilation_growth_rate": 3,
}
CONFIG: dict[str, Any] = {
    "features": "norm_f0_interp,vuv",
    "encoder_params": PARAMS,
    "decoder_params": PARAMS,
    "vq_params": {"l_bins": 64, "emb_width": 128, "mu": 0.99, "levels": 1},
    "speaker_norm": False,
    "speaker_stats": None,
}


def conv_strided(state: Mapping[str, Array], name: str, x: Array) -> Array:
    """x [C, T] -> [C', T // 2]: kernel 4, stride 2, padding 1."""
    w, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    x = np.pad(x, ((0, 0), (1, 1)))
    columns = [sum(w[:, :, k] @ x[:, 2 * t + k] for k in range(4)) + bias for t in range((x.shape[1] - 4) // 2 + 1)]
    return np.stack(columns, axis=1)


def blocks(state: Mapping[str, Array], name: str, x: Array) -> Array:
    """Four residual blocks of dilation 1, 3, 9, 27."""
    for number in range(4):
        hidden = conv(state, f"{name}.model.{number}.model.1", np.maximum(x, 0), 3**number, 3**number)
        x = x + conv(state, f"{name}.model.{number}.model.3", np.maximum(hidden, 0), 0)
    return x


def encode(state: Mapping[str, Array], features: Array) -> NDArray[np.int64]:
    """features [2, T] -> codes [T // 16]."""
    x = features
    for number in range(4):
        name = f"encoder.level_blocks.0.model.{number}"
        x = blocks(state, f"{name}.1", conv_strided(state, f"{name}.0", x))
    latents = conv(state, "encoder.level_blocks.0.model.4", x, 1).T
    distances = ((latents[:, None] - state["vq.level_blocks.0.k"][None]) ** 2).sum(-1)
    codes: NDArray[np.int64] = distances.argmin(1)
    return codes


def decode(state: Mapping[str, Array], codes: NDArray[np.int64]) -> Array:
    """codes [P] -> features [2, 16 P]."""
    x = conv(state, "decoder.level_blocks.0.model.0", state["vq.level_blocks.0.k"][codes].T, 1)
    for number in range(1, 5):
        name = f"decoder.level_blocks.0.model.{number}"
        x = conv_transposed(state, f"{name}.1", blocks(state, f"{name}.0", x), 2, 1)
    return conv(state, "decoder.out", x, 1)


def shapes() -> dict[str, tuple[int, ...]]:
    """The name and shape of each weight, by the description."""
    found: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int, bias: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, (bias,)

    for side, prefix in (("encoder", "{}.1"), ("decoder", "{}.0")):
        for number in range(4):
            place = number + (side == "decoder")
            name = f"{side}.level_blocks.0.model.{place}"
            for block in range(4):
                inner = f"{prefix.format(name)}.model.{block}.model"
                add(f"{inner}.1", 32, 32, 3, bias=32)
                add(f"{inner}.3", 32, 32, 1, bias=32)
            if side == "encoder":
                add(f"{name}.0", 32, 32 if number else 2, 4, bias=32)
            else:
                width = 128 if number == 3 else 32
                add(f"{name}.1", 32, width, 4, bias=width)
    add("encoder.level_blocks.0.model.4", 128, 32, 3, bias=128)
    add("decoder.level_blocks.0.model.0", 32, 128, 3, bias=32)
    add("decoder.out", 2, 128, 3, bias=2)
    found["vq.level_blocks.0.k"] = (64, 128)
    return found


def write(folder: Path, seed: int = 0, config: Mapping[str, Any] = CONFIG) -> dict[str, Array]:
    """Writes a tokenizer of random weights in the published layout, with what training leaves in it."""
    generator = np.random.default_rng(seed)
    state = {
        name: generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1) for name, shape in shapes().items()
    }
    # As far apart as latents are.
    state["vq.level_blocks.0.k"] *= np.sqrt(128) * 20
    weights = {name: torch.from_numpy(value).float() for name, value in state.items()}
    left_over = {"vq.level_blocks.0.k_sum": torch.ones(64, 128), "vq.level_blocks.0.k_elem": torch.ones(64)}
    torch.save({"model": {**weights, **left_over}}, folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    return {name: value.numpy().astype(np.float64) for name, value in weights.items()}
