"""HubertModel against transformers' HubertModel on random weights, and its arithmetic of samples and frames."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized
from transformers import HubertConfig as HuggingFaceConfig
from transformers import HubertModel as HuggingFaceModel

from model.encoder.hubert import HubertModel
from model.encoder.hubert_checkpoint import load_huggingface_folder
from model.encoder.hubert_config import HubertConfig
from model.encoder.hubert_frontend import FRAMES_PER_TILE
from pipeline.errors import TwistError

KERNELS_25_HZ = (10, 3, 3, 3, 3, 2, 2, 2)
STRIDES_25_HZ = (5, 2, 2, 2, 2, 2, 2, 2)
BASE_25_HZ = HubertConfig(
    conv_dim=(512,) * 8, conv_kernel=KERNELS_25_HZ, conv_stride=STRIDES_25_HZ, conv_pos_batch_norm=True
)
SMALL_25_HZ = replace(
    BASE_25_HZ,
    conv_dim=(16,) * 8,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=40,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)
SMALL_50_HZ = replace(
    SMALL_25_HZ,
    conv_dim=(16,) * 7,
    conv_kernel=KERNELS_25_HZ[:7],
    conv_stride=STRIDES_25_HZ[:7],
    conv_pos_batch_norm=False,
)
SMALL_VARIANTS = {
    "50 Hz": SMALL_50_HZ,
    "50 Hz, batch norm": replace(SMALL_50_HZ, conv_pos_batch_norm=True),
    "50 Hz, Large's norms": replace(SMALL_50_HZ, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
    "25 Hz": SMALL_25_HZ,
    "25 Hz, weight norm": replace(SMALL_25_HZ, conv_pos_batch_norm=False),
    "25 Hz, Large's norms": replace(SMALL_25_HZ, feat_extract_norm="layer", do_stable_layer_norm=True),
    "25 Hz, layer norms and post-norm": replace(SMALL_25_HZ, feat_extract_norm="layer", conv_bias=True),
    "25 Hz, group norm and pre-norm": replace(SMALL_25_HZ, do_stable_layer_norm=True),
    "25 Hz, odd positional kernel": replace(SMALL_25_HZ, num_conv_pos_embeddings=15),
    "25 Hz, no norm before projection": replace(SMALL_25_HZ, feat_proj_layer_norm=False),
    "16.6 Hz": replace(SMALL_25_HZ, conv_kernel=(*KERNELS_25_HZ[:7], 3), conv_stride=(*STRIDES_25_HZ[:7], 3)),
    "12.5 Hz": replace(SMALL_25_HZ, conv_kernel=(*KERNELS_25_HZ[:7], 4), conv_stride=(*STRIDES_25_HZ[:7], 4)),
    "two kinds of width": replace(SMALL_25_HZ, conv_dim=(8, 12, 16, 16, 12, 16, 8, 20)),
}


def noise(num_samples: int, batch: int = 1, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(seed))


def reference_model(config: HubertConfig) -> HuggingFaceModel:
    """transformers' model of this shape, every weight and running statistic random so that none can be forgotten."""
    torch.manual_seed(1)
    reference = HuggingFaceModel(HuggingFaceConfig(**vars(config))).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.uniform_(0.5, 1.5) if name.endswith("weight") else parameter.uniform_(-0.3, 0.3)
        for name, buffer in reference.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.5, 0.5)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return reference


def reference_and_ours(config: HubertConfig, folder: Path) -> tuple[HuggingFaceModel, HubertModel]:
    reference = reference_model(config)
    reference.save_pretrained(folder)
    model, _ = load_huggingface_folder(folder)
    assert model.config == config, "the config must survive transformers' config.json"
    return reference, model


@torch.inference_mode()
def assert_same_features(reference: HuggingFaceModel, model: HubertModel, wav: Tensor) -> None:
    expected = reference(wav, output_hidden_states=True).hidden_states
    layers = model.all_layers(wav)
    assert len(layers) == len(expected) == model.config.num_hidden_layers + 1
    for layer, (ours, theirs) in enumerate(zip(layers, expected, strict=True)):
        assert ours.shape == (*wav.shape[:1], model.config.num_frames(wav.shape[1]), model.config.hidden_size)
        torch.testing.assert_close(
            ours, theirs, atol=1e-4, rtol=1e-4, msg=lambda text, layer=layer: f"layer {layer} differs: {text}"
        )


@pytest.mark.parametrize("config", SMALL_VARIANTS.values(), ids=SMALL_VARIANTS)
def test_every_layer_agrees_with_transformers(config: HubertConfig, tmp_path: Path) -> None:
    reference, model = reference_and_ours(config, tmp_path)
    assert_same_features(reference, model, noise(9_000, batch=2))
    assert_same_features(reference, model, noise(config.receptive_field_samples))
    more_than_a_tile = FRAMES_PER_TILE * config.hop_samples + 9_000
    assert_same_features(reference, model, noise(more_than_a_tile))


@torch.inference_mode()
@pytest.mark.parametrize("offset", [0.0, 0.5], ids=["centred", "with an offset"])
@pytest.mark.parametrize("amplitude", [1e-4, 0.3])
def test_group_norm_of_low_sounds_agrees_with_transformers_in_float64(
    amplitude: float, offset: float, tmp_path: Path
) -> None:
    # Neighbouring samples are nearly equal, so most filters cancel nearly all of the signal, and rounding errors show.
    reference, model = reference_and_ours(SMALL_25_HZ, tmp_path)
    time_s = torch.arange(20_000, dtype=torch.float64) / 16_000
    wav = (offset + amplitude * (torch.sin(2 * torch.pi * 90 * time_s) + torch.sin(2 * torch.pi * 210 * time_s)))[None]
    expected = reference.double().feature_extractor(wav.float().double()).transpose(1, 2)
    frames = model.feature_extractor(wav.float(), None)
    torch.testing.assert_close(frames.double(), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("num_windows", [143, 1_023, 1_024, 1_025, 5_000])
def test_group_norm_sees_all_windows_and_no_more(num_windows: int, tmp_path: Path) -> None:
    # Lengths around whole blocks of windows, and with samples after the last window, which no window has.
    reference, model = reference_and_ours(SMALL_25_HZ, tmp_path)
    for num_samples in (5 * (num_windows - 1) + 10, 5 * (num_windows - 1) + 14):
        wav = noise(num_samples, batch=2) + 0.3
        expected = reference.feature_extractor(wav).transpose(1, 2)
        torch.testing.assert_close(model.feature_extractor(wav, None), expected, atol=1e-4, rtol=1e-4)
        padded = torch.nn.functional.pad(wav, (0, 1_000), value=7.0)
        frames = model.feature_extractor(padded, torch.tensor([num_samples] * 2))[:, : expected.shape[1]]
        torch.testing.assert_close(frames, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [SMALL_25_HZ, SMALL_VARIANTS["50 Hz, Large's norms"]], ids=["Base", "Large"])
def test_gradients_agree_with_transformers(config: HubertConfig, tmp_path: Path) -> None:
    reference, model = reference_and_ours(config, tmp_path)
    wav = noise(9_000)
    reference(wav, output_hidden_states=True).hidden_states[-1].square().mean().backward()
    model(wav, layer=config.num_hidden_layers).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:  # the closing norm of Large has none
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-3)


def test_base_at_25_hz_agrees_with_transformers(tmp_path: Path) -> None:
    reference, model = reference_and_ours(BASE_25_HZ, tmp_path)
    assert_same_features(reference, model, noise(16_000))


@torch.inference_mode()
@pytest.mark.parametrize("config", [SMALL_50_HZ, SMALL_25_HZ], ids=["weight norm", "batch norm"])
def test_one_layer_equals_that_layer_of_all(config: HubertConfig, tmp_path: Path) -> None:
    _, model = reference_and_ours(config, tmp_path)
    wav = noise(5_000)
    for layer, expected in enumerate(model.all_layers(wav)):
        assert torch.equal(model(wav, layer=layer), expected), f"layer {layer} depends on how it was asked for"


@torch.inference_mode()
def test_layers_above_the_one_asked_for_do_not_run(tmp_path: Path) -> None:
    _, model = reference_and_ours(SMALL_25_HZ, tmp_path)
    model.encoder.layers[2].register_forward_hook(lambda *_: pytest.fail("layer 3 ran"))
    model(noise(5_000), layer=2)


@torch.inference_mode()
@pytest.mark.parametrize("config", SMALL_VARIANTS.values(), ids=SMALL_VARIANTS)
def test_equal_length_batch_equals_alone(config: HubertConfig, tmp_path: Path) -> None:
    _, model = reference_and_ours(config, tmp_path)
    wavs = noise(6_000, batch=3)
    batched = model(wavs, layer=3)
    for index in range(3):
        torch.testing.assert_close(batched[index : index + 1], model(wavs[index : index + 1], layer=3))


@torch.inference_mode()
@pytest.mark.parametrize("config", [SMALL_50_HZ, SMALL_25_HZ], ids=["weight norm", "batch norm"])
def test_inference_in_float32_changes_nothing(config: HubertConfig, tmp_path: Path) -> None:
    _, model = reference_and_ours(config, tmp_path)
    wav = noise(FRAMES_PER_TILE * config.hop_samples + 5_000)
    before = model(wav, layer=3)
    ready = model.for_inference(torch.float32, torch.device("cpu"))
    assert not is_parametrized(ready.encoder.pos_conv_embed.conv), "weight norm must be folded into the weight"
    torch.testing.assert_close(ready(wav, layer=3), before)
    assert not any(parameter.requires_grad for parameter in ready.parameters())


@torch.inference_mode()
@pytest.mark.parametrize("config", SMALL_VARIANTS.values(), ids=SMALL_VARIANTS)
def test_bfloat16_stays_near_float32(config: HubertConfig, tmp_path: Path) -> None:
    _, model = reference_and_ours(config, tmp_path)
    wav = noise(9_000)
    expected = model(wav, layer=3)
    first_conv_weight = model.feature_extractor.conv_layers[0].conv.weight.clone()
    rounded = model.for_inference(torch.bfloat16, torch.device("cpu"))(wav, layer=3)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(model.feature_extractor.conv_layers[0].conv.weight, first_conv_weight), "it stays in float32"
    relative_error = (rounded.float() - expected).norm() / expected.norm()
    assert relative_error < 0.05, f"bfloat16 is {relative_error:.3f} away from float32"


@pytest.mark.parametrize(
    ("config", "hop_samples", "receptive_field_samples"),
    [(HubertConfig(), 320, 400), (BASE_25_HZ, 640, 720), (SMALL_VARIANTS["16.6 Hz"], 960, 1_040)],
    ids=["50 Hz", "25 Hz", "16.6 Hz"],
)
def test_hop_and_receptive_field(config: HubertConfig, hop_samples: int, receptive_field_samples: int) -> None:
    assert config.hop_samples == hop_samples
    assert config.receptive_field_samples == receptive_field_samples


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [
        (0, 0),
        (719, 0),
        (720, 1),
        (1_359, 1),
        (1_360, 2),
        (146_160, 228),
        (225_360, 352),
        (255_120, 398),
        (480_000, 749),
        (1_600_000, 2_499),
    ],
)
def test_num_frames_of_the_official_25_hz_model(num_samples: int, num_frames: int) -> None:
    # 146160 is spiritlm's tokenizer test, 255120 and 225360 are slamkit's examples, 1600000 is the official chunk.
    assert BASE_25_HZ.num_frames(num_samples) == num_frames


@torch.inference_mode()
@pytest.mark.parametrize("config", SMALL_VARIANTS.values(), ids=SMALL_VARIANTS)
def test_num_frames_is_what_the_convolutions_give(config: HubertConfig) -> None:
    tiny = replace(
        config,
        conv_dim=(2,) * len(config.conv_dim),
        hidden_size=4,
        num_attention_heads=1,
        num_conv_pos_embedding_groups=1,
    )
    model = HubertModel(tiny).eval()
    shortest, hop = tiny.receptive_field_samples, tiny.hop_samples
    for num_samples in (shortest, shortest + 1, shortest + hop - 1, shortest + hop, shortest + 7 * hop + 3):
        assert model(noise(num_samples), layer=0).shape[1] == tiny.num_frames(num_samples), f"{num_samples} samples"


def test_25_hz_base_has_the_published_size() -> None:
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in HubertModel(BASE_25_HZ).parameters())
    # HuBERT Base has 94.4M; the eighth convolution adds 512 x 512 x 2.
    assert 94e6 < num_parameters < 96e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_kernel": (10, 3)}, "one entry per convolution"),
        ({"conv_dim": ()}, "conv_dim must list integers from 1 to"),
        ({"conv_stride": (5, 2, 2, 2, 2, 2, 2, 0)}, "conv_stride must list integers from 1 to"),
        ({"conv_dim": "512"}, "conv_dim must list integers from 1 to"),
        ({"hidden_size": 25}, "hidden_size 25 is not divisible by num_attention_heads 4"),
        ({"num_conv_pos_embedding_groups": 5}, "not divisible by num_conv_pos_embedding_groups 5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer from 1 to"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers must be an integer from 1 to"),
        ({"conv_pos_batch_norm": None}, "conv_pos_batch_norm must be true or false"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm is 'batch'"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'; supported: 'gelu'"),
        ({"feat_extract_activation": "relu"}, "feat_extract_activation is 'relu'"),
        ({"layer_norm_eps": 0}, "layer_norm_eps must lie between 0 and 1"),
    ],
)
def test_config_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        replace(SMALL_25_HZ, **change)
