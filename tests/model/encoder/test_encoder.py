"""Encoders as the pipeline uses them: features by clip, chunks, fingerprints, refusals."""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import HubertConfig as HuggingFaceConfig
from transformers import HubertModel as HuggingFaceModel
from transformers import Wav2Vec2FeatureExtractor

from model.encoder.config import EncoderConfig
from model.encoder.encoder import Encoder, load_encoder
from pipeline.errors import TwistError

CHUNK_S = 0.25
CHUNK_SAMPLES = 4_000


@pytest.fixture(scope="module")
def hubert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random 25 Hz HuBERT, as TWIST's: eighth convolution, batch norm before the positional one."""
    folder = tmp_path_factory.mktemp("hubert")
    torch.manual_seed(0)
    config = HuggingFaceConfig(
        conv_dim=[16] * 8,
        conv_kernel=[10, 3, 3, 3, 3, 2, 2, 2],
        conv_stride=[5, 2, 2, 2, 2, 2, 2, 2],
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        conv_pos_batch_norm=True,
    )
    HuggingFaceModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["mfcc", "hubert float32", "hubert bfloat16", "hubert normalized", "hubert at a level"])
def config(request: pytest.FixtureRequest, hubert_folder: Path) -> EncoderConfig:
    hubert = EncoderConfig(name="hubert", path=str(hubert_folder), layer=2, device="cpu", max_chunk_s=CHUNK_S)
    return {
        "mfcc": EncoderConfig(device="cpu", max_chunk_s=CHUNK_S),
        "hubert float32": hubert,
        "hubert bfloat16": dataclasses.replace(hubert, dtype="bfloat16"),
        "hubert normalized": dataclasses.replace(hubert, normalize=True),
        "hubert at a level": dataclasses.replace(hubert, level_dbfs=-24.0),
    }[request.param]


def noise(num_samples: int, seed: int = 0) -> Tensor:
    return 0.05 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def hubert(folder: Path, **settings: object) -> EncoderConfig:
    return EncoderConfig(**({"name": "hubert", "path": str(folder), "layer": 2, "device": "cpu"} | settings))  # type: ignore[arg-type]


def test_clips_in_a_batch_equal_clips_alone(config: EncoderConfig) -> None:
    encoder = load_encoder(config)
    wavs = [noise(num_samples, seed) for seed, num_samples in enumerate((1_000, 9_999, 2_500, 4_000, 880))]
    for wav, features in zip(wavs, encoder.encode(wavs), strict=True):
        assert torch.equal(features, encoder.encode([wav])[0]), f"a clip of {len(wav)} samples saw its neighbours"
    assert encoder.encode([]) == []


def test_shape_dtype_and_device(config: EncoderConfig) -> None:
    encoder = load_encoder(config)
    assert (encoder.sample_rate_hz, encoder.hop_samples) == (16_000, 640)
    for num_samples in (encoder.min_samples, 3_333, CHUNK_SAMPLES, 3 * CHUNK_SAMPLES + 100, 3 * CHUNK_SAMPLES + 3_000):
        (features,) = encoder.encode([noise(num_samples)])
        assert features.shape == (encoder.num_frames(num_samples), encoder.feature_dim), f"{num_samples} samples"
        assert features.dtype == torch.float32
        assert features.device == encoder.device == torch.device("cpu")
    assert encoder.num_frames(encoder.min_samples) == 1
    assert encoder.num_frames(encoder.min_samples - 1) == 0


def test_chunks_are_encoded_as_clips_of_their_own(hubert_folder: Path) -> None:
    for config in (EncoderConfig(max_chunk_s=CHUNK_S, device="cpu"), hubert(hubert_folder, max_chunk_s=CHUNK_S)):
        encoder = load_encoder(config)
        wav = noise(2 * CHUNK_SAMPLES + 1_500)
        parts = encoder.encode(list(wav.split(CHUNK_SAMPLES)))
        assert torch.equal(encoder.encode([wav])[0], torch.cat(parts)), f"{config.name}: a frame crosses a cut"


def test_last_chunk_too_short_for_a_frame_gives_none(config: EncoderConfig) -> None:
    encoder = load_encoder(config)
    per_chunk = encoder.num_frames(CHUNK_SAMPLES)
    for num_extra_samples in (0, 1, 9, encoder.min_samples - 1):
        num_samples = 2 * CHUNK_SAMPLES + num_extra_samples
        assert encoder.num_frames(num_samples) == 2 * per_chunk
        assert len(encoder.encode([noise(num_samples)])[0]) == 2 * per_chunk, f"{num_extra_samples} samples over"
    assert encoder.num_frames(2 * CHUNK_SAMPLES + encoder.min_samples) == 2 * per_chunk + 1


def test_default_chunks_are_the_official_ones(hubert_folder: Path) -> None:
    for encoder in (load_encoder(EncoderConfig(device="cpu")), load_encoder(hubert(hubert_folder))):
        assert encoder.num_frames(1_600_000) == 2_499
        assert encoder.num_frames(1_600_000 + 719) == 2_499
        assert encoder.num_frames(2 * 1_600_000 + 880) == 2 * 2_499 + 1
    assert load_encoder(hubert(hubert_folder)).num_frames(1_600_000 + 720) == 2_500


@torch.inference_mode()
def test_layer_is_transformers_hidden_state_of_that_index(hubert_folder: Path) -> None:
    reference = HuggingFaceModel.from_pretrained(hubert_folder).eval()
    wav = noise(5_000)
    expected = reference(wav[None], output_hidden_states=True).hidden_states
    for layer in (1, 2, 3):
        (features,) = load_encoder(hubert(hubert_folder, layer=layer)).encode([wav])
        torch.testing.assert_close(features, expected[layer][0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_normalization_is_transformers_own(hubert_folder: Path) -> None:
    reference = HuggingFaceModel.from_pretrained(hubert_folder).eval()
    wav = 0.01 * noise(5_000) + 0.2
    normalized = Wav2Vec2FeatureExtractor(do_normalize=True)(wav.numpy(), sampling_rate=16_000, return_tensors="pt")
    expected = reference(normalized["input_values"], output_hidden_states=True).hidden_states[2][0]
    (features,) = load_encoder(hubert(hubert_folder, normalize=True)).encode([wav])
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_normalization_is_over_the_clip_not_the_chunk(hubert_folder: Path) -> None:
    quiet_then_loud = torch.cat([0.001 * noise(CHUNK_SAMPLES), noise(CHUNK_SAMPLES) + 0.5])
    whole = load_encoder(hubert(hubert_folder, max_chunk_s=CHUNK_S, normalize=True))
    scaled = (quiet_then_loud - quiet_then_loud.mean()) / quiet_then_loud.std(correction=0)
    plain = load_encoder(hubert(hubert_folder, max_chunk_s=CHUNK_S))
    torch.testing.assert_close(whole.encode([quiet_then_loud])[0], plain.encode([scaled])[0], atol=1e-3, rtol=1e-3)


def test_normalization_follows_the_checkpoint_unless_told(hubert_folder: Path, tmp_path: Path) -> None:
    for file in hubert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    fingerprint = {
        (folder, normalize): load_encoder(hubert(folder, normalize=normalize)).fingerprint
        for folder in (hubert_folder, tmp_path)
        for normalize in (None, True, False)
    }
    assert fingerprint[hubert_folder, None] == fingerprint[hubert_folder, False] == fingerprint[tmp_path, False]
    assert fingerprint[tmp_path, None] == fingerprint[tmp_path, True] == fingerprint[hubert_folder, True]
    assert fingerprint[tmp_path, True] != fingerprint[tmp_path, False]


def test_silence_gives_finite_features(config: EncoderConfig) -> None:
    (features,) = load_encoder(config).encode([torch.zeros(5_000)])
    assert features.isfinite().all()


def test_encoding_keeps_the_callers_samples(config: EncoderConfig) -> None:
    wav = noise(3_000)
    before = wav.clone()
    load_encoder(config).encode([wav])
    assert torch.equal(wav, before)


def test_fingerprint_is_the_same_for_the_same_features(config: EncoderConfig, tmp_path: Path) -> None:
    fingerprint = load_encoder(config).fingerprint
    assert len(fingerprint) == 64
    assert int(fingerprint, 16) >= 0
    assert load_encoder(config).fingerprint == fingerprint
    if config.path is not None:
        folder = Path(config.path)
        torch.save(safetensors.torch.load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
        moved = dataclasses.replace(config, path=str(tmp_path))
        assert load_encoder(moved).fingerprint == fingerprint, "it names weights, not files"


def test_fingerprint_differs_where_features_may(hubert_folder: Path, tmp_path: Path) -> None:
    weights = safetensors.torch.load_file(hubert_folder / "model.safetensors")
    weights["encoder.layers.0.attention.q_proj.weight"][0, 0] += 1e-3
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((hubert_folder / "config.json").read_bytes())
    same_weights_other_norm = tmp_path / "eps"
    same_weights_other_norm.mkdir()
    (same_weights_other_norm / "model.safetensors").write_bytes((hubert_folder / "model.safetensors").read_bytes())
    settings = json.loads((hubert_folder / "config.json").read_text()) | {"layer_norm_eps": 1e-3}
    (same_weights_other_norm / "config.json").write_text(json.dumps(settings))
    configs = {
        "mfcc": EncoderConfig(device="cpu"),
        "mfcc in shorter chunks": EncoderConfig(device="cpu", max_chunk_s=30.0),
        "hubert": hubert(hubert_folder),
        "other layer": hubert(hubert_folder, layer=3),
        "other dtype": hubert(hubert_folder, dtype="bfloat16"),
        "other chunks": hubert(hubert_folder, max_chunk_s=30.0),
        "other normalization": hubert(hubert_folder, normalize=True),
        "a level": hubert(hubert_folder, level_dbfs=-24.0),
        "another level": hubert(hubert_folder, level_dbfs=-20.0),
        "mfcc at a level": EncoderConfig(device="cpu", level_dbfs=-24.0),
        "other weights": hubert(tmp_path),
        "other shape": hubert(same_weights_other_norm),
    }
    by_fingerprint: dict[str, str] = {}
    for name, config in configs.items():
        other = by_fingerprint.setdefault(load_encoder(config).fingerprint, name)
        assert other == name, f"{name} and {other} share a fingerprint"


def test_description_is_json_and_names_what_matters(config: EncoderConfig) -> None:
    encoder = load_encoder(config)
    description = json.loads(json.dumps(encoder.describe()))
    assert description["name"] == config.name
    assert description["path"] == config.path
    assert description["layer"] == (config.layer if config.name == "hubert" else None)
    assert description["dtype"] == config.dtype
    assert description["hop_samples"] == 640
    assert description["frame_rate_hz"] == 25.0
    assert description["feature_dim"] == encoder.feature_dim
    assert description["fingerprint"] == encoder.fingerprint
    assert description["level_dbfs"] == config.level_dbfs


def test_clip_without_a_frame_is_refused(config: EncoderConfig) -> None:
    encoder = load_encoder(config)
    for num_samples in (0, 1, encoder.min_samples - 1):
        with pytest.raises(
            TwistError, match=rf"clip 1 of 2 has {num_samples} samples, too few .* {encoder.min_samples}"
        ):
            encoder.encode([noise(5_000), noise(num_samples)])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_sample_that_is_no_number_is_refused(config: EncoderConfig, value: float) -> None:
    encoder = load_encoder(config)
    broken = noise(5_000)
    broken[1_600] = value
    with pytest.raises(TwistError, match=r"clip 0 of 2 has a NaN or infinite sample, the first at 0\.100 s"):
        encoder.encode([broken, noise(5_000)])


def test_samples_whose_sum_overflows_are_finite_all_the_same() -> None:
    (features,) = load_encoder(EncoderConfig()).encode([torch.full((5_000,), 1e37)])
    assert features.shape[1] == 39


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cpc"}, "name is 'cpc'; it must be mfcc or hubert"),
        ({"name": "hubert"}, "hubert needs a path"),
        ({"path": "models/hubert"}, "mfcc has no path"),
        ({"layer": 6}, "mfcc has no layer"),
        ({"dtype": "bfloat16"}, "mfcc has no dtype"),
        ({"normalize": True}, "mfcc has no normalize"),
        ({"level_dbfs": 3.0}, "level_dbfs is 3.0; it must be from -80 to 0"),
        ({"level_dbfs": float("nan")}, "level_dbfs is nan; it must be from -80 to 0"),
        ({"level_dbfs": "loud"}, "level_dbfs is 'loud'; it must be a number of dB, unchanged or null"),
        (
            {"name": "hubert", "path": "x", "normalize": True, "level_dbfs": -24.0},
            "level_dbfs is of no use with normalize",
        ),
        ({"layer": 0}, "layers count from 1"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"max_chunk_s": 0.0}, "must be a positive number of seconds"),
        ({"max_chunk_s": float("inf")}, "must be a positive number of seconds"),
    ],
)
def test_setting_that_does_not_fit_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        EncoderConfig(**settings)  # type: ignore[arg-type]


def test_layer_or_chunk_that_the_model_does_not_have_is_refused(hubert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"layer is 4, but the model at .* has 3 layers"):
        load_encoder(hubert(hubert_folder, layer=4))
    with pytest.raises(TwistError, match=r"max_chunk_s is 0\.04 \(640 samples\), too short .* at least 0\.045 s"):
        load_encoder(hubert(hubert_folder, max_chunk_s=0.04))
    with pytest.raises(TwistError, match="does not exist"):
        load_encoder(hubert(tmp_path / "nowhere"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_is_refused() -> None:
    with pytest.raises(TwistError, match="torch finds no CUDA device"):
        load_encoder(EncoderConfig(device="cuda"))
    assert load_encoder(EncoderConfig(device="auto")).device == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(config: EncoderConfig) -> None:
    wav = noise(9_999)
    on_cuda: Encoder = load_encoder(dataclasses.replace(config, device="cuda"))
    (features,) = on_cuda.encode([wav])
    assert features.device.type == "cuda"
    tolerance = 0.1 if config.dtype == "bfloat16" else 1e-3
    (expected,) = load_encoder(config).encode([wav])
    torch.testing.assert_close(features.cpu(), expected, atol=tolerance, rtol=tolerance)
