"""Meta's quantizer of SpiRit-LM: units by a small network that was trained with CTC, in place of k-means.

Three linear layers with leaky ReLUs between them give each frame a score for every unit and, last, for CTC's blank. The
likeliest is the frame's unit; a blank frame takes the unit of the frame before it, and those at the start of a clip, as
in Meta's code, that of the clip's last frame. A clip of nothing but blanks keeps them: so the blank counts as a unit.

    model_cfg {vocab_size, dim, upstream_dim}, model_weight {0,2,4}.{weight,bias}     the file, written by torch.save

Source: Nguyen et al. 2024 (SpiRit-LM) and Gat et al. 2023; facts of Meta's released quantizer.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    Weights = Mapping[str, NDArray[np.float32]]

# Places of the linear layers; the leaky ReLUs between them have no weights.
LAYERS = (0, 2, 4)
LEAK = 0.01
SETTINGS, WEIGHTS = "model_cfg", "model_weight"


def are_layers(weights: Weights) -> bool:
    """Whether these are the layers of a quantizer, each as wide as the one before it gives."""
    if weights.keys() != {f"{layer}.{name}" for layer in LAYERS for name in ("weight", "bias")}:
        return False
    tables = [weights[f"{layer}.weight"] for layer in LAYERS]
    biases = [weights[f"{layer}.bias"] for layer in LAYERS]
    if any(table.ndim != 2 for table in tables):
        return False
    fits = all(after.shape[1] == before.shape[0] for before, after in itertools.pairwise(tables))
    return fits and all(bias.shape == table.shape[:1] for bias, table in zip(biases, tables, strict=True))


def sizes(weights: Weights) -> tuple[int, int]:
    """Dimensions of the features, and units, the blank among them."""
    return weights[f"{LAYERS[0]}.weight"].shape[1], weights[f"{LAYERS[-1]}.weight"].shape[0]


def read(path: Path) -> dict[str, NDArray[np.float32]]:
    """The layers in a file that torch.save wrote; nothing in it is executed.

    Raises:
        TwistError: it cannot be read as such a file.
        ValueError: it holds no quantizer.
    """
    from model.torch_file import TorchFile, mapping  # here, for readers of k-means

    with TorchFile(path) as file:
        content = mapping(file.content)
        if SETTINGS not in content or WEIGHTS not in content:
            raise ValueError(f"it has no {SETTINGS} and {WEIGHTS}, so it is no CTC quantizer")
        recorded = mapping(content[WEIGHTS])
        weights = {str(name): file.tensor(one).float().numpy() for name, one in recorded.items()}
    if not are_layers(weights):
        raise ValueError(f"its layers ({', '.join(sorted(weights))}) are not those of a CTC quantizer")
    num_units, stated = sizes(weights)[1], content[SETTINGS].get("vocab_size")
    if stated != num_units - 1:
        raise ValueError(f"it has scores for {num_units - 1} units and a blank, but says that there are {stated} units")
    return weights


class CtcAssigner:
    """Finds the units of a clip, on the features' device."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        import torch

        self._layers = [
            tuple(torch.from_numpy(np.array(weights[f"{layer}.{name}"])).to(device) for name in ("weight", "bias"))
            for layer in LAYERS
        ]

    def __call__(self, features: Tensor) -> Tensor:
        """features of a clip [F, D] float32 -> units [F] int64."""
        import torch
        from torch.nn import functional as F

        hidden = features
        for number, (table, bias) in enumerate(self._layers):
            hidden = F.linear(hidden if number == 0 else F.leaky_relu(hidden, LEAK), table, bias)
        units = hidden.argmax(dim=1)
        is_unit = units != hidden.shape[1] - 1
        if len(units) == 0 or not is_unit.any():
            return units
        # The place of the last frame up to each that has a unit; -1, before the first, is the clip's last such frame.
        places = torch.where(is_unit, torch.arange(len(units), device=units.device), -1)
        last = places.max()
        before = places.cummax(dim=0).values
        return units[torch.where(before < 0, last, before)]
