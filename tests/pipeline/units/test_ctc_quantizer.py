"""A CTC quantizer of random weights in the layout of Meta's file, against torch's own modules and a loop."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.units import codebook, codebook_import, ctc_quantizer
from pipeline.units.codebook import CodebookError
from pipeline.units.ctc_quantizer import CtcAssigner

if TYPE_CHECKING:
    from pathlib import Path

DIM, NUM_UNITS = 24, 6
ENCODER = {"name": "hubert", "feature_dim": DIM, "fingerprint": "f", "frame_rate_hz": 25.0}
CPU = torch.device("cpu")


def layers(blank_bias: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Linear(DIM, 18), nn.LeakyReLU(), nn.Linear(18, 12), nn.LeakyReLU(), nn.Linear(12, NUM_UNITS + 1)
    )
    with torch.no_grad():
        made[4].bias[-1] += blank_bias
    return made


def write(path: Path, model: nn.Module, **changed: object) -> Path:
    settings = {"vocab_size": NUM_UNITS, "dim": DIM, "upstream_dim": DIM + 10}
    torch.save({"model_cfg": settings, "model_weight": OrderedDict(model.state_dict()), **changed}, path)
    return path


def units_by_a_loop(model: nn.Module, features: torch.Tensor) -> list[int]:
    """Meta's rule: blanks take what stands to their left, around the clip's ends, until there are none."""
    with torch.no_grad():
        units = model(features).argmax(dim=1).tolist()
    if set(units) == {NUM_UNITS}:
        return units
    while NUM_UNITS in units:
        units = [units[place - 1] if unit == NUM_UNITS else unit for place, unit in enumerate(units)]
    return units


@given(num_frames=st.integers(0, 40), seed=st.integers(0, 1000), blank_bias=st.sampled_from([0.0, 0.3, 0.5, 9.0]))
def test_units_are_those_of_a_loop(num_frames: int, seed: int, blank_bias: float) -> None:
    model = layers(blank_bias)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    features = torch.randn(num_frames, DIM, generator=torch.Generator().manual_seed(seed))
    units = CtcAssigner(weights, CPU)(features)
    assert units.tolist() == (units_by_a_loop(model, features) if num_frames else [])


def test_blanks_occur_in_what_is_tested() -> None:
    features = torch.randn(200, DIM, generator=torch.Generator().manual_seed(0))
    found = layers(0.5)(features).argmax(dim=1)
    assert 0.2 < (found == NUM_UNITS).float().mean() < 0.9


def test_file_becomes_a_codebook_that_is_saved_and_loaded(tmp_path: Path) -> None:
    model = layers(0.5)
    imported = codebook_import.read(str(write(tmp_path / "quantizer.pt", model)), "quantizer.pt")
    codebook_import.check(imported, NUM_UNITS + 1, ENCODER)
    book = codebook.of_weights(imported.weights, codebook_import.facts_of(imported, ENCODER))
    codebook.write(str(tmp_path / "codebook"), book)
    loaded = codebook.load(str(tmp_path / "codebook"))
    assert loaded.is_ctc and loaded.fingerprint == book.fingerprint
    assert (loaded.codebook_size, loaded.facts["feature_dim"]) == (NUM_UNITS + 1, DIM)
    features = torch.randn(50, DIM, generator=torch.Generator().manual_seed(1))
    assert CtcAssigner(loaded.weights, CPU)(features).tolist() == units_by_a_loop(model, features)
    again = codebook_import.read(str(tmp_path / "codebook"), "codebook")
    assert again.weights.keys() == imported.weights.keys()


def test_another_encoder_or_size_is_refused(tmp_path: Path) -> None:
    imported = codebook_import.read(str(write(tmp_path / "quantizer.pt", layers())), "quantizer.pt")
    with pytest.raises(CodebookError, match=r"7 units; set codebook\.num_units, now 500"):
        codebook_import.check(imported, 500, ENCODER)
    with pytest.raises(CodebookError, match="takes features of 24 dimensions"):
        codebook_import.check(imported, NUM_UNITS + 1, {**ENCODER, "feature_dim": 768})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_cfg": {"vocab_size": 500}}, "scores for 6 units and a blank, but says that there are 500"),
        ({"model_weight": {"0.weight": torch.zeros(3, 3)}}, "not those of a CTC quantizer"),
        ({"model_weight": 3}, "cannot be read as a CTC quantizer"),
    ],
)
def test_other_files_are_refused(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "quantizer.pt", layers(), **changed)
    with pytest.raises(CodebookError, match=message):
        codebook_import.read(str(path), "quantizer.pt")


def test_a_file_of_other_content_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(CodebookError, match="no model_cfg and model_weight"):
        codebook_import.read(str(tmp_path / "other.pt"), "other.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = layers(float("nan"))
    with pytest.raises(CodebookError, match="NaN or infinite"):
        codebook_import.read(str(write(tmp_path / "quantizer.pt", model)), "quantizer.pt")


@pytest.mark.parametrize("name", ["0.weight", "2.bias", "4.weight"])
def test_layers_that_do_not_fit_are_none(name: str) -> None:
    weights = {key: tensor.numpy() for key, tensor in layers().state_dict().items()}
    assert ctc_quantizer.are_layers(weights)
    assert not ctc_quantizer.are_layers({**weights, name: np.zeros((3, 3), np.float32)})
    assert not ctc_quantizer.are_layers({key: value for key, value in weights.items() if key != name})
