"""Our HuBERT and codebooks against fairseq's own, from files that fairseq and scikit-learn wrote.

`make parity` makes these files (see make_references.py) and names their folder in TWIST_PARITY_REFERENCES.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from model.encoder import EncoderConfig, load_encoder
from model.hubert_checkpoint import load_fairseq_file
from pipeline.codebook import Assigner
from pipeline.codebook_import import read_centroids

FOLDER = Path(os.environ.get("TWIST_PARITY_REFERENCES", "nowhere"))
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no references of fairseq here; `make parity` makes them")

MODELS = sorted(path.stem for path in FOLDER.glob("*.npz") if (FOLDER / f"{path.stem}.pt").is_file())
KINDS = ("legacy", "omegaconf", "args")
TOLERANCE = 1e-4


def test_there_are_references() -> None:
    assert len(MODELS) >= 14
    assert sum(path.name.startswith("kmeans.") for path in FOLDER.glob("*.bin")) >= 7


@pytest.mark.parametrize("name", MODELS)
def test_features_of_every_layer(name: str) -> None:
    references = np.load(FOLDER / f"{name}.npz")
    num_wavs = len(references.files) // 2
    for layer in range(1, len(references["features_0"]) + 1):
        encoder = load_encoder(EncoderConfig("hubert", str(FOLDER / f"{name}.pt"), layer, device="cpu"))
        features = encoder.encode([torch.from_numpy(references[f"wav_{index}"]) for index in range(num_wavs)])
        for index in range(num_wavs):
            expected = torch.from_numpy(references[f"features_{index}"][layer - 1])
            message = f"layer {layer}, clip {index} of {len(references[f'wav_{index}'])} samples"
            assert features[index].shape == expected.shape, message
            difference = float((features[index] - expected).abs().max())
            assert difference <= TOLERANCE, f"{message}: {difference:.2g} apart"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_every_way_in_which_fairseq_saved_gives_the_same_model(name: str, kind: str) -> None:
    model, do_normalize = load_fairseq_file(FOLDER / f"{name}.pt")
    other, other_do_normalize = load_fairseq_file(FOLDER / f"{name}.{kind}.pt")
    assert (other.config, other_do_normalize) == (model.config, do_normalize)
    weights = other.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())


def test_long_clips_are_cut_and_their_tails_treated_as_by_textlesslib() -> None:
    references = np.load(FOLDER / "chunks.npz")
    config = EncoderConfig("hubert", str(FOLDER / "twist-25hz.pt"), int(references["layer"]), device="cpu")
    encoder = load_encoder(config)
    frames = []
    for index, num_samples in enumerate(references["num_samples"].tolist()):
        wav = torch.from_numpy(references[f"wav_{index}"]).float() / 2**15
        expected = torch.from_numpy(references[f"features_{index}"])
        features = encoder.encode([wav])[0]
        assert len(features) == len(expected) == encoder.num_frames(num_samples), f"{num_samples} samples"
        difference = float((features - expected).abs().max())
        assert difference <= TOLERANCE, f"{num_samples} samples: {difference:.2g} apart"
        frames.append(len(features))
    assert frames == [2499, 4998, 2499, 2499 + 62, 2500], "whole chunks and tails of 0, 0, 9, 40000 and 720 samples"
    # For tails of 10 to 719 samples fairseq fails (make_references.py holds it to that); here they give no frame.
    for num_tail_samples in (10, 719):
        assert encoder.num_frames(1_600_000 + num_tail_samples) == 2499


@pytest.mark.parametrize("path", sorted(FOLDER.glob("kmeans.*.bin")), ids=lambda path: path.name)
def test_kmeans_by_joblib(path: Path) -> None:
    centroids = read_centroids(path.read_bytes(), str(path))
    assert np.array_equal(centroids, np.load(FOLDER / "kmeans.npy"))
    references = np.load(FOLDER / "kmeans_units.npz")
    units = Assigner(centroids, torch.device("cpu"))(torch.from_numpy(references["frames"]))
    assert np.array_equal(units.numpy(), references["units"]), "scikit-learn's k-means gives other units"
