"""Loading HuBERT from Hugging Face folders: every way they are written, and every way they can be wrong."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import HubertConfig as HuggingFaceConfig
from transformers import HubertForCTC, Wav2Vec2FeatureExtractor
from transformers import HubertModel as HuggingFaceModel

from model.hubert_checkpoint import load_huggingface_folder
from pipeline.errors import TwistError

SMALL = {
    "conv_dim": [8, 8],
    "conv_kernel": [10, 4],
    "conv_stride": [5, 4],
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
WAV = 0.1 * torch.randn(1, 2_000, generator=torch.Generator().manual_seed(0))


def write_folder(folder: Path, **settings: object) -> HuggingFaceModel:
    torch.manual_seed(0)
    reference = HuggingFaceModel(HuggingFaceConfig(**(SMALL | settings))).eval()
    reference.save_pretrained(folder)
    return reference


def read_weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.inference_mode()
def assert_loads_as(reference: HuggingFaceModel, folder: Path) -> None:
    model, _ = load_huggingface_folder(folder)
    expected = reference(WAV, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(model(WAV, layer=2), expected, atol=1e-5, rtol=1e-5)
    assert not model.training
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("conv_pos_batch_norm", [False, True])
def test_safetensors_and_bin_give_the_same_model(tmp_path: Path, conv_pos_batch_norm: bool) -> None:
    reference = write_folder(tmp_path, conv_pos_batch_norm=conv_pos_batch_norm)
    assert_loads_as(reference, tmp_path)
    torch.save(read_weights(tmp_path), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert_loads_as(reference, tmp_path)


def test_bin_in_torch_legacy_format(tmp_path: Path) -> None:
    reference = write_folder(tmp_path)
    torch.save(read_weights(tmp_path), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "model.safetensors").unlink()
    assert_loads_as(reference, tmp_path)


@pytest.mark.parametrize("old_names", [True, False])
def test_both_namings_of_weight_norm(tmp_path: Path, old_names: bool) -> None:
    reference = write_folder(tmp_path)
    conv = "encoder.pos_conv_embed.conv."
    pairs = [("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1")]
    weights = read_weights(tmp_path)
    for old, new in pairs:
        wanted, other = (old, new) if old_names else (new, old)
        if conv + other in weights:
            weights[conv + wanted] = weights.pop(conv + other)
        assert conv + wanted in weights
    write_weights(tmp_path, weights)
    assert_loads_as(reference, tmp_path)


def test_body_of_a_model_with_a_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with_head = HubertForCTC(HuggingFaceConfig(**SMALL)).eval()
    with_head.save_pretrained(tmp_path)
    assert any(name.startswith("hubert.") for name in read_weights(tmp_path)), "transformers no longer prefixes"
    assert_loads_as(with_head.hubert, tmp_path)


def test_weights_without_a_mask_embedding(tmp_path: Path) -> None:
    reference = write_folder(tmp_path, mask_time_prob=0.0)
    assert "masked_spec_embed" not in read_weights(tmp_path)
    assert_loads_as(reference, tmp_path)


def test_half_precision_weights_are_read_into_float32(tmp_path: Path) -> None:
    reference = write_folder(tmp_path)
    write_weights(tmp_path, {name: tensor.half() for name, tensor in read_weights(tmp_path).items()})
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.half())
    assert_loads_as(reference, tmp_path)


def test_settings_that_an_old_config_lacks_are_those_of_base(tmp_path: Path) -> None:
    reference = write_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("conv_pos_batch_norm", "feat_proj_layer_norm", "layer_norm_eps"):
        config.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_loads_as(reference, tmp_path)


def test_do_normalize_is_the_preprocessors(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert load_huggingface_folder(tmp_path)[1] is False, "no preprocessor_config.json: no normalization"
    for do_normalize in (True, False):
        Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(tmp_path)
        assert load_huggingface_folder(tmp_path)[1] is do_normalize
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert load_huggingface_folder(tmp_path)[1] is True, "transformers' default"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "wav2vec2"}, "config.json has model_type 'wav2vec2'; only 'hubert'"),
        ("config.json", {"hidden_act": "relu"}, "config.json: HuBERT config: hidden_act is 'relu'"),
        ("config.json", {"conv_stride": [5]}, "config.json: HuBERT config: conv_dim, conv_kernel and conv_stride"),
        ("config.json", {"adapter_attn_dim": 16}, "adapter layers are not supported"),
        ("config.json", {"hidden_size": 24}, "whose shape its config does not give"),
        ("config.json", {"hidden_size": 2**40}, "hidden_size must be an integer from 1 to 65536"),
        ("config.json", {"num_hidden_layers": 3}, "lacks encoder.layers.2."),
        ("config.json", {"num_hidden_layers": 1}, "has unexpected encoder.layers.1.* and 11 more"),
        ("config.json", {"conv_pos_batch_norm": True}, "lacks encoder.pos_conv_embed.batch_norm.*"),
        ("preprocessor_config.json", {"sampling_rate": 8_000}, "has sampling_rate 8000; only 16000 Hz"),
        ("preprocessor_config.json", {"do_normalize": "yes"}, "has do_normalize 'yes'"),
    ],
)
def test_config_that_does_not_fit(tmp_path: Path, file: str, changes: dict[str, object], message: str) -> None:
    write_folder(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    edit_json(tmp_path / file, **changes)
    with pytest.raises(TwistError, match=message):
        load_huggingface_folder(tmp_path)


def test_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="nowhere does not exist"):
        load_huggingface_folder(tmp_path / "nowhere")
    (tmp_path / "hubert.pt").touch()
    with pytest.raises(TwistError, match=r"hubert\.pt is a file; give a folder"):
        load_huggingface_folder(tmp_path / "hubert.pt")
    with pytest.raises(TwistError, match=r"config\.json does not exist"):
        load_huggingface_folder(tmp_path)


def test_folder_without_weights(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TwistError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_huggingface_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TwistError, match=r"config\.json (is not valid JSON|holds no JSON object)"):
        load_huggingface_folder(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share_kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(tmp_path: Path, share_kept: float, legacy: bool) -> None:
    write_folder(tmp_path)
    safetensors_path, bin_path = tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin"
    torch.save(read_weights(tmp_path), bin_path, _use_new_zipfile_serialization=not legacy)
    for path in (safetensors_path, bin_path):
        path.write_bytes(path.read_bytes()[: int(share_kept * path.stat().st_size)])
        with pytest.raises(TwistError, match=rf"{path.name} cannot be read"):
            load_huggingface_folder(tmp_path)
        path.unlink()


def test_damaged_weights_give_our_error_or_load(tmp_path: Path) -> None:
    write_folder(tmp_path)
    torch.save(read_weights(tmp_path), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "model.safetensors").unlink()
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    num_refused = 0
    for position in range(0, 4_000, 37):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "pytorch_model.bin").write_bytes(damaged)
        try:
            load_huggingface_folder(tmp_path)
        except TwistError:
            num_refused += 1
    assert num_refused > 50, "bytes of the pickle's head were flipped; hardly any was noticed"


class RunsOnUnpickling:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("wrapper", ["torch", "pickle"])
def test_pickle_that_would_run_code_does_not(tmp_path: Path, wrapper: str) -> None:
    write_folder(tmp_path)
    marker = tmp_path / "ran"
    content = {"encoder.layer_norm.weight": RunsOnUnpickling(marker)}
    if wrapper == "torch":
        torch.save(content, tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TwistError, match=r"pytorch_model\.bin cannot be read as tensors"):
        load_huggingface_folder(tmp_path)
    assert not marker.exists(), "loading ran code from the file"


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, {"model": {"weight": torch.zeros(2)}}])
def test_bin_that_is_no_state_dict(tmp_path: Path, content: object) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(TwistError, match="is not a state dict"):
        load_huggingface_folder(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    write_folder(tmp_path)
    weights = read_weights(tmp_path)
    weights["encoder.layers.1.attention.q_proj.bias"][3] = value
    write_weights(tmp_path, weights)
    with pytest.raises(TwistError, match=r"NaN or infinite values in encoder\.layers\.1\.attention\.q_proj\.bias"):
        load_huggingface_folder(tmp_path)
