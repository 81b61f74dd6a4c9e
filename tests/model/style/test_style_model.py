"""Style models: Meta's layout against transformers' own parts, ours against plain numpy; batched is alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from model.artefacts import EMBEDDED_FOLDER
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.style.config import StyleConfig, StyleTrainConfig
from model.style.model import META_CHUNK_SAMPLES, PooledStyle, load_style, pooled
from pipeline.errors import TwistError

MFCC = EncoderConfig(device="cpu")


def write_release(folder: Path, num_labels: int = 100, **settings: object) -> Path:
    """Random weights in Meta's layout: a wav2vec 2.0 of 320 samples a frame, a projector, a classifier."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=24,
        num_labels=num_labels,
        **settings,
    )
    model = Wav2Vec2ForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight *= 40
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("meta"))


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise whose loudness and colour change."""
    generator = np.random.default_rng(seed)
    wav = generator.standard_normal(int(seconds * 16_000)).cumsum() * 0.001 + generator.standard_normal(
        int(seconds * 16_000)
    ) * np.linspace(0, 0.3, int(seconds * 16_000))
    return torch.from_numpy(wav.astype(np.float32))


def test_metas_codes_are_those_of_transformers_parts(release: Path) -> None:
    """Written anew from the release's description, frame by frame in numpy behind transformers' network."""
    wav = noise(3.7)
    model = Wav2Vec2ForSequenceClassification.from_pretrained(release).eval()
    inputs = Wav2Vec2FeatureExtractor(do_normalize=True)(wav.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        states = model.projector(model.wav2vec2(inputs.input_values).last_hidden_state)[0].numpy()
        weight, bias = (value.numpy() for value in (model.classifier.weight, model.classifier.bias))
    expected = [
        int(np.argmax(weight @ states[start : start + 50].mean(axis=0) + bias)) for start in range(0, len(states), 50)
    ]
    style = load_style(str(release), "cpu")
    (codes,) = style.codes([wav])
    assert codes.tolist() == expected
    assert len(codes) == 4 and len(set(expected)) > 1, "the example tells codes apart"
    assert (style.rate_hz, style.num_codes, style.min_samples) == (1.0, 100, 400)


def test_stretches_of_100_s_are_coded_by_themselves(release: Path) -> None:
    wav = noise(101.5)
    style = load_style(str(release), "cpu")
    (whole,) = style.codes([wav])
    parts = [style.codes([part])[0] for part in wav.split(META_CHUNK_SAMPLES)]
    assert whole.tolist() == torch.cat(parts).tolist()
    short_rest = META_CHUNK_SAMPLES + 300
    (codes,) = style.codes([wav[:short_rest]])
    assert codes.tolist() == parts[0].tolist(), "what is too short for a frame is left out"


@pytest.fixture(params=["meta", "kmeans", "linear"])
def style_folder(request: pytest.FixtureRequest, release: Path, tmp_path: Path) -> Path:
    if request.param == "meta":
        return release
    encoder = load_encoder(MFCC)
    features = torch.cat([pooled(frames, 25) for frames in encoder.encode([noise(30, seed) for seed in range(3)])])
    generator = torch.Generator().manual_seed(0)
    weights = {"mean": features.mean(dim=0), "scale": features.std(dim=0)}
    if request.param == "kmeans":
        weights["centroids"] = torch.randn(7, features.shape[1], generator=generator)
        PooledStyle(encoder, MFCC, "kmeans", weights).save(tmp_path)
    else:
        weights |= {"weight": torch.randn(3, features.shape[1], generator=generator), "bias": torch.zeros(3)}
        PooledStyle(encoder, MFCC, "linear", weights, ("angry", "happy", "sad")).save(tmp_path)
    return tmp_path


def test_batched_is_alone(style_folder: Path) -> None:
    style = load_style(str(style_folder), "cpu")
    wavs = [noise(seconds, seed) for seed, seconds in enumerate((2.3, 0.4, 5.0, 1.0))]
    together = style.codes(wavs)
    for wav, codes in zip(wavs, together, strict=True):
        (alone,) = style.codes([wav])
        assert codes.tolist() == alone.tolist() and codes.dtype == torch.int64
        assert len(codes) == -(-round(len(wav) / 16_000 * 50) // 50) and codes.max() < style.num_codes


def test_ours_comes_back_and_is_the_nearest_centroid(tmp_path: Path) -> None:
    encoder = load_encoder(MFCC)
    wav = noise(4.5)
    (frames,) = encoder.encode([wav])
    generator = torch.Generator().manual_seed(1)
    weights = {
        "mean": frames.mean(dim=0),
        "scale": frames.std(dim=0),
        "centroids": torch.randn(9, frames.shape[1], generator=generator),
    }
    made = PooledStyle(encoder, MFCC, "kmeans", weights)
    made.save(tmp_path)
    read = load_style(str(tmp_path), "cpu")
    assert read.fingerprint == made.fingerprint
    (codes,) = read.codes([wav])
    values = {name: tensor.numpy().astype(np.float64) for name, tensor in weights.items()}
    expected = []
    for start in range(0, len(frames), 25):
        mean = frames[start : start + 25].numpy().astype(np.float64).mean(axis=0)
        scaled = (mean - values["mean"]) / values["scale"]
        expected.append(int(np.argmin(((values["centroids"] - scaled) ** 2).sum(axis=1))))
    assert codes.tolist() == expected


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    encoder = load_encoder(MFCC)
    dim = encoder.feature_dim
    weights = {"mean": torch.zeros(dim), "scale": torch.ones(dim), "centroids": torch.randn(4, dim)}
    PooledStyle(encoder, MFCC, "kmeans", weights).save(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "encoder_fingerprint": "another"}))
    with pytest.raises(TwistError, match=r"is damaged \(config.json\)"):
        load_style(str(tmp_path))
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(TwistError, match="fitted on other features"):
        load_style(str(tmp_path))


def test_what_is_no_style_model(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="holds no style model"):
        load_style(str(tmp_path))
    for content in ("{", "[]", "{}", '{"format": "twist-style"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(TwistError, match="style model"):
            load_style(str(tmp_path))


def test_a_clip_that_is_too_short_is_refused(release: Path) -> None:
    with pytest.raises(TwistError, match="too short"):
        load_style(str(release), "cpu").codes([torch.zeros(399)])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "linear"},
        {"labels": "speaker"},
        {"num_codes": 1},
        {"max_hours": 0.0},
        {"penalty": -1.0},
        {"method": "trees"},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(TwistError, match="train_style"):
        StyleTrainConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(TwistError, match="empty"):
        StyleConfig("")


def test_the_embedded_model_is_small_and_tells_seconds_apart() -> None:
    folder = EMBEDDED_FOLDER / "style-tiny-25hz"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000
    style = load_style("style-tiny-25hz", "cpu")
    assert (style.rate_hz, style.num_codes) == (1.0, 64)
    wav = torch.cat([noise(2.0, 1), 0.2 * torch.sin(torch.arange(32_000) * 0.05)])
    (codes,) = style.codes([wav])
    assert len(codes) == 4 and len(set(codes.tolist())) > 1
