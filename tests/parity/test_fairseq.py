"""Our HuBERT and codebooks against fairseq's own, from files that fairseq and scikit-learn wrote.

`make parity` makes these files (see make_references.py) and names their folder in TWIST_PARITY_REFERENCES.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.encoder.hubert_checkpoint import load_fairseq_file
from model.encoder.hubert_pretrain import HubertPretraining
from model.encoder.pretrain_config import PretrainConfig
from pipeline.units.codebook import Assigner
from pipeline.units.codebook_import import read_centroids

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


def test_pretraining_has_the_losses_and_gradients_of_fairseq() -> None:
    references = np.load(FOLDER / "pretraining.npz")
    told = {name: torch.from_numpy(np.asarray(references[name])) for name in references.files}
    body, _ = load_fairseq_file(FOLDER / "base-50hz.pt")
    embedding_dim, num_units = told["final_proj.weight"].shape[0], told["label_embs_concat"].shape[0]
    config = PretrainConfig(
        model=body.config,
        embedding_dim=embedding_dim,
        unmasked_weight=0.5,
        feature_gradient_scale=0.1,
        dropout=0.0,
        layer_drop=0.0,
    )
    task = HubertPretraining(config, num_units)
    task.body.load_state_dict(body.state_dict())
    with torch.no_grad():
        task.mask_embedding.copy_(told["mask_emb"])
        task.final_projection.weight.copy_(told["final_proj.weight"])
        task.final_projection.bias.copy_(told["final_proj.bias"])
        task.unit_embeddings.copy_(told["label_embs_concat"])

    loss = task(told["wav"], told["units"], told["is_masked"])
    for name, value in loss._asdict().items():
        assert value.item() == pytest.approx(told[name].item(), rel=1e-4), name
    # fairseq's sum over frames; the trainer here takes means of the masked, of the other, and of all frames.
    total = (
        loss.masked_nll + config.unmasked_weight * loss.unmasked_nll + 10.0 * told["sample_size"] * loss.feature_penalty
    )
    assert total.item() == pytest.approx(told["loss"].item(), rel=1e-4)
    total.backward()
    weights = task.body
    ours = {
        "feature_extractor.conv_layers.0.0.weight": weights.feature_extractor.conv_layers[0].conv.weight,
        "feature_extractor.conv_layers.6.0.weight": weights.feature_extractor.conv_layers[6].conv.weight,
        "post_extract_proj.weight": weights.feature_projection.projection.weight,
        "encoder.layers.0.fc1.weight": weights.encoder.layers[0].feed_forward.intermediate_dense.weight,
        "encoder.layers.2.self_attn.q_proj.weight": weights.encoder.layers[2].attention.q_proj.weight,
        "encoder.layer_norm.weight": weights.encoder.layer_norm.weight,
        "mask_emb": task.mask_embedding,
        "final_proj.weight": task.final_projection.weight,
        "final_proj.bias": task.final_projection.bias,
        "label_embs_concat": task.unit_embeddings,
    }
    assert set(ours) == {name.removeprefix("gradient of ") for name in told if name.startswith("gradient of ")}
    for name, weight in ours.items():
        expected = told[f"gradient of {name}"]
        scale = float(expected.abs().max())
        assert weight.grad is not None
        difference = float((weight.grad - expected).abs().max()) / scale
        assert difference <= 1e-3, f"gradient of {name}: {difference:.2g} of its largest value apart"
