"""Loading HuBERT from every format: each variant that is in use, and each mistake that a file can have."""

import argparse
import json
import os
import pickle
import re
import sys
import types
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import HubertConfig as HuggingFaceConfig
from transformers import HubertForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from transformers import HubertModel as HuggingFaceModel

from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.encoder.hubert_checkpoint import (
    FAIRSEQ_WAVEFORM_NORM_EPS,
    HUGGINGFACE_WAVEFORM_NORM_EPS,
    load_fairseq_file,
    load_hubert,
    load_huggingface_folder,
)
from model.encoder.hubert_config import HubertConfig
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


def test_do_normalize_of_a_processor(tmp_path: Path) -> None:
    """transformers 5 writes the feature extractor of a processor into processor_config.json, and no other file."""
    write_folder(tmp_path)
    processor = tmp_path / "processor_config.json"
    for do_normalize in (True, False):
        extractor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
        vocabulary = tmp_path / "vocab.json"
        vocabulary.write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}))
        Wav2Vec2Processor(extractor, Wav2Vec2CTCTokenizer(str(vocabulary))).save_pretrained(tmp_path)
        assert processor.is_file(), "transformers writes other files now"
        assert not (tmp_path / "preprocessor_config.json").exists()
        assert load_huggingface_folder(tmp_path)[1] is do_normalize
        assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path).do_normalize is do_normalize
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    expected = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path).do_normalize
    assert load_huggingface_folder(tmp_path)[1] is expected, "which of two files counts is as in transformers"
    processor.write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))
    assert load_huggingface_folder(tmp_path)[1] is True, "a processor of transformers 4 says nothing"
    processor.write_text(json.dumps({"feature_extractor": {"sampling_rate": 8_000}}))
    with pytest.raises(TwistError, match=r"processor_config\.json has sampling_rate 8000"):
        load_huggingface_folder(tmp_path)


def test_a_model_that_may_want_normalized_audio_and_does_not_say_warns(tmp_path: Path) -> None:
    for settings in ({}, LARGE):
        write_folder(tmp_path, **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert load_huggingface_folder(tmp_path)[1] is False
        told = [str(warning.message) for warning in caught if "encoder.normalize" in str(warning.message)]
        assert bool(told) is bool(settings)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_huggingface_folder(tmp_path)[1] is False


def shard(folder: Path, kind: str) -> Path:
    """Splits model.safetensors into three files and an index, as transformers does with large models."""
    weights = read_weights(folder)
    (folder / "model.safetensors").unlink()
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for number in range(3):
        name = f"{stem}-{number + 1:05d}-of-00003.{suffix}"
        part = dict(list(weights.items())[number::3])
        if kind == "safetensors":
            safetensors.torch.save_file(part, folder / name, {"format": "pt"})
        else:
            torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_weights(tmp_path: Path, kind: str) -> None:
    reference = write_folder(tmp_path)
    index = shard(tmp_path, kind)
    assert_loads_as(reference, tmp_path)
    (folder := tmp_path / "of-transformers").mkdir()
    reference.save_pretrained(folder, max_shard_size="4KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert_loads_as(reference, folder)

    weight_map = json.loads(index.read_text())["weight_map"]
    for changes, message in (
        ({"encoder.layer_norm.weight": "../elsewhere"}, "which is no file beside it"),
        ({"encoder.layer_norm.weight": str(tmp_path / "model.bin")}, "which is no file beside it"),
        ({"encoder.layer_norm.weight": "nowhere.bin"}, "does not exist, but"),
        ({"encoder.more": next(iter(weight_map.values()))}, "lacks encoder.more, which"),
    ):
        edit_json(index, weight_map=weight_map | changes)
        with pytest.raises(TwistError, match=message):
            load_huggingface_folder(tmp_path)
    for content in ({}, {"weight_map": []}, {"weight_map": {}}):
        index.write_text(json.dumps(content))
        with pytest.raises(TwistError, match="has no weight_map"):
            load_huggingface_folder(tmp_path)
    del weight_map["encoder.layer_norm.weight"]
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(TwistError, match=r"index\.json lacks encoder\.layer_norm\.weight"):
        load_huggingface_folder(tmp_path)


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


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100_000], ids=["", "{", "[]", "0", "too deep"])
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


# tests/parity has fairseq's own files; these imitate them, with weights of transformers' model.
MODEL_SETTINGS = {
    "_name": "hubert",
    "conv_feature_layers": "[(8,10,5)] + [(8, 4, 4)]*1",
    "encoder_embed_dim": 12,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_embed_dim": 16,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "mask_prob": 0.8,
    "latent_temp": (2, 0.5, 0.999995),
}
TASK_SETTINGS = {"_name": "hubert_pretraining", "sample_rate": 16_000, "normalize": False, "labels": ["km"]}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "conv_pos_batch_norm": True}
FAIRSEQ_LARGE = {
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "conv_bias": True,
    "conv_pos_batch_norm": True,
}
FAIRSEQ_NAMES = [
    (r"^(feature_extractor.conv_layers.\d+).conv.", r"\1.0."),
    (r"^(feature_extractor.conv_layers.\d+).layer_norm.", r"\1.2.NORM"),
    (r"^feature_projection.layer_norm.", "layer_norm."),
    (r"^feature_projection.projection.", "post_extract_proj."),
    (r"^encoder.pos_conv_embed.batch_norm.", "encoder.pos_conv.0."),
    (r"^encoder.pos_conv_embed.conv.", "encoder.pos_conv.CONV."),
    (r"parametrizations.weight.original0$", "weight_g"),
    (r"parametrizations.weight.original1$", "weight_v"),
    (r"^(encoder.layers.\d+).attention.", r"\1.self_attn."),
    (r"^(encoder.layers.\d+).layer_norm.", r"\1.self_attn_layer_norm."),
    (r"feed_forward.intermediate_dense.", "fc1."),
    (r"feed_forward.output_dense.", "fc2."),
    (r"^masked_spec_embed$", "mask_emb"),
]


def fairseq_state(reference: HuggingFaceModel, **model_settings: object) -> dict[str, Any]:
    """A checkpoint as fairseq's trainer would save it, with the weights of the reference."""
    weights: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in reference.state_dict().items():
        for ours, theirs in FAIRSEQ_NAMES:
            name = re.sub(ours, theirs, name)
        name = name.replace("NORM", "1." if reference.config.feat_extract_norm == "layer" else "")
        weights[name.replace("CONV", "1" if reference.config.conv_pos_batch_norm else "0")] = tensor
    weights |= {"final_proj.weight": torch.ones(4, 12), "final_proj.bias": torch.ones(4)}
    weights["label_embs_concat"] = torch.ones(20, 4)
    return {
        "args": None,
        "cfg": {"_name": None, "model": MODEL_SETTINGS | model_settings, "task": dict(TASK_SETTINGS)},
        "model": weights,
        "optimizer_history": [{"num_updates": 7}],
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}},
    }


def small_reference(**settings: object) -> HuggingFaceModel:
    torch.manual_seed(0)
    reference = HuggingFaceModel(HuggingFaceConfig(**(SMALL | settings))).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return reference


@torch.inference_mode()
def assert_file_loads_as(reference: HuggingFaceModel, path: Path, do_normalize: bool = False) -> None:
    model, loaded_do_normalize = load_fairseq_file(path)
    assert loaded_do_normalize is do_normalize
    expected = reference(WAV, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(model(WAV, layer=1), expected, atol=1e-5, rtol=1e-5)
    assert not model.training
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_fairseq_file(tmp_path: Path, large: bool, legacy: bool) -> None:
    reference = small_reference(**(LARGE if large else {}))
    state = fairseq_state(reference, **(FAIRSEQ_LARGE if large else {}))
    torch.save(state, tmp_path / "hubert.pt", _use_new_zipfile_serialization=not legacy)
    assert_file_loads_as(reference, tmp_path / "hubert.pt")


def test_fairseq_file_of_a_model_without_projection(tmp_path: Path) -> None:
    reference = small_reference(conv_dim=[12, 12])
    with torch.no_grad():
        reference.feature_projection.projection.weight.copy_(torch.eye(12))
        reference.feature_projection.projection.bias.zero_()
    state = fairseq_state(reference, conv_feature_layers="[(12,10,5),(12,4,4)]")
    del state["model"]["post_extract_proj.weight"], state["model"]["post_extract_proj.bias"]
    torch.save(state, tmp_path / "hubert.pt")
    assert_file_loads_as(reference, tmp_path / "hubert.pt")


def test_spiritlms_names_of_the_same(tmp_path: Path) -> None:
    reference = small_reference()
    state = fairseq_state(reference)
    config = state["cfg"]
    renamed = {"model_cfg": config["model"], "task_cfg": {**config["task"], "normalize": True}}
    torch.save({**renamed, "model_weight": state["model"], "dictionaries_symbols": [["a"]]}, tmp_path / "hubert.pt")
    assert_file_loads_as(reference, tmp_path / "hubert.pt", do_normalize=True)


def test_fairseq_file_with_an_old_namespace(tmp_path: Path) -> None:
    reference = small_reference()
    state = fairseq_state(reference)
    flat = {**state.pop("cfg")["model"], **TASK_SETTINGS, "normalize": True, "arch": "hubert"}
    del flat["_name"]
    torch.save({**state, "args": argparse.Namespace(**flat)}, tmp_path / "hubert.pt")
    assert_file_loads_as(reference, tmp_path / "hubert.pt", do_normalize=True)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> type:
    """A class that pickles under the name of a class in a package that is not installed."""
    module, _, class_name = name.rpartition(".")
    made = type(class_name, (), {"__module__": module})
    packages = module.split(".")
    for depth in range(len(packages)):
        name = ".".join(packages[: depth + 1])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    setattr(sys.modules[module], class_name, made)
    return made


def with_state(made: type, **state: object) -> object:
    instance = made()
    instance.__dict__.update(state)
    return instance


def test_fairseq_file_with_objects_of_fairseq_and_omegaconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = small_reference()
    state = fairseq_state(reference)
    dict_config = stand_in(monkeypatch, "omegaconf.dictconfig.DictConfig")
    list_config = stand_in(monkeypatch, "omegaconf.listconfig.ListConfig")
    any_node = stand_in(monkeypatch, "omegaconf.nodes.AnyNode")
    dictionary = stand_in(monkeypatch, "fairseq.data.dictionary.Dictionary")

    def wrapped(value: object) -> object:
        if isinstance(value, dict):
            return with_state(
                dict_config, _metadata=None, _content={key: wrapped(value) for key, value in value.items()}
            )
        if isinstance(value, list | tuple):
            return with_state(list_config, _content=[wrapped(entry) for entry in value])
        return with_state(any_node, _metadata=None, _val=value)

    state["cfg"] = wrapped(state["cfg"])
    state["task_state"] = {"dictionaries": [with_state(dictionary, symbols=["<s>"], indices={"<s>": 0})]}
    torch.save(state, tmp_path / "hubert.pt")
    assert_file_loads_as(reference, tmp_path / "hubert.pt")


def test_the_format_decides_the_epsilon_of_the_waveforms_norm(tmp_path: Path) -> None:
    torch.save(fairseq_state(small_reference()), tmp_path / "hubert.pt")
    write_folder(tmp_path / "folder")
    assert load_hubert(tmp_path / "hubert.pt")[2] == FAIRSEQ_WAVEFORM_NORM_EPS == 1e-5
    assert load_hubert(tmp_path / "folder")[2] == HUGGINGFACE_WAVEFORM_NORM_EPS == 1e-7
    with pytest.raises(TwistError, match="nowhere does not exist"):
        load_hubert(tmp_path / "nowhere")


@torch.inference_mode()
def test_an_encoder_of_a_fairseq_file_normalizes_as_fairseq(tmp_path: Path) -> None:
    reference = small_reference()
    state = fairseq_state(reference)
    state["cfg"]["task"]["normalize"] = True
    torch.save(state, tmp_path / "hubert.pt")
    quiet = 1e-3 * WAV[0] + 0.01
    encoder = load_encoder(EncoderConfig("hubert", str(tmp_path / "hubert.pt"), layer=1, device="cpu"))
    normalized = torch.nn.functional.layer_norm(quiet, quiet.shape)
    expected = reference(normalized[None], output_hidden_states=True).hidden_states[1][0]
    torch.testing.assert_close(encoder.encode([quiet])[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 3", [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 3]),
        (" [(8, 10, 5), (8, 4, 4)] ", [(8, 10, 5), (8, 4, 4)]),
        ("([(1,2,3)] + [(4,5,6)]) * 2", [(1, 2, 3), (4, 5, 6)] * 2),
    ],
)
def test_text_of_conv_layers(tmp_path: Path, text: str, expected: list[tuple[int, int, int]]) -> None:
    dims, kernels, strides = zip(*expected, strict=True)
    reference = small_reference(conv_dim=list(dims), conv_kernel=list(kernels), conv_stride=list(strides))
    torch.save(fairseq_state(reference, conv_feature_layers=text), tmp_path / "hubert.pt")
    config = load_fairseq_file(tmp_path / "hubert.pt")[0].config
    assert (config.conv_dim, config.conv_kernel, config.conv_stride) == (dims, kernels, strides)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[(512,10)]",
        "[(512,10,-5)]",
        "[(512,10,5)",
        "[(512,10,5)] * 10**9",
        "[(512,10,5)] * 64 * 64 * 64 * 64 * 64 * 64",
        "[(512,10,5)] * -1",
        "__import__('os').mkdir('ran')",
        "[(512,10,5)] + [(lambda: 3)()]",
        "[(x,10,5) for x in [1]]",
        "(" * 500,
        "[(1,1,1)]" + " + [(1,1,1)]" * 5000,
        None,
    ],
)
def test_text_of_conv_layers_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(fairseq_state(small_reference(), conv_feature_layers=text), tmp_path / "hubert.pt")
    with pytest.raises(
        TwistError, match=r"hubert\.pt: (conv_feature_layers is .*must list|HuBERT config: conv_stride)"
    ):
        load_fairseq_file(tmp_path / "hubert.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_name": "wav2vec2"}, "is of fairseq's architecture 'wav2vec2'; only 'hubert'"),
        ({"_name": "hubert_ctc"}, "is of fairseq's architecture 'hubert_ctc'"),
        ({"layer_type": "conformer"}, "has layer_type 'conformer'; only 'transformer'"),
        ({"pos_conv_depth": 5}, "has pos_conv_depth 5; only 1"),
        ({"extractor_mode": "other"}, "has extractor_mode 'other'; it must be default or layer_norm"),
        ({"extractor_mode": ["default"]}, "has extractor_mode"),
        ({"activation_fn": "relu"}, "hidden_act is 'relu'"),
        ({"encoder_embed_dim": 24}, "whose shape its config does not give"),
        ({"encoder_embed_dim": "12"}, "hidden_size must be an integer"),
        ({"encoder_layers": 3}, r"lacks encoder\.layers\.2\."),
        ({"encoder_layers": 1}, r"has unexpected encoder\.layers\.1\."),
        ({"conv_pos_batch_norm": True}, r"lacks encoder\.pos_conv_embed\."),
        ({"layer_norm_first": "yes"}, "do_stable_layer_norm must be true or false"),
    ],
    ids=str,
)
def test_fairseq_settings_that_do_not_fit(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    torch.save(fairseq_state(small_reference(), **settings), tmp_path / "hubert.pt")
    with pytest.raises(TwistError, match=message):
        load_fairseq_file(tmp_path / "hubert.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"sample_rate": 8_000}, "sample_rate 8000; only 16000"), ({"normalize": "yes"}, "normalize 'yes'")],
)
def test_fairseq_task_that_does_not_fit(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    state = fairseq_state(small_reference())
    state["cfg"]["task"] |= settings
    torch.save(state, tmp_path / "hubert.pt")
    with pytest.raises(TwistError, match=message):
        load_fairseq_file(tmp_path / "hubert.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"cfg": None},
        {"cfg": {}},
        {"cfg": 3},
        {"cfg": {"model": None, "task": {}}},
        {"model": None},
        {"model": [torch.zeros(2)]},
        {"cfg": None, "args": argparse.Namespace},
    ],
    ids=str,
)
def test_file_that_is_no_fairseq_checkpoint(tmp_path: Path, change: dict[str, object]) -> None:
    torch.save(fairseq_state(small_reference()) | change, tmp_path / "hubert.pt")
    with pytest.raises(TwistError, match=r"hubert\.pt is no checkpoint of fairseq"):
        load_fairseq_file(tmp_path / "hubert.pt")


@pytest.mark.parametrize("name", [3, "fc9.weight", "encoder.layers.0.fc1.weight_2", "final_proj_2.weight"])
def test_fairseq_file_with_an_unknown_weight(tmp_path: Path, name: object) -> None:
    state = fairseq_state(small_reference())
    state["model"][name] = torch.zeros(1)
    torch.save(state, tmp_path / "hubert.pt")
    with pytest.raises(TwistError, match=r"hubert\.pt has unexpected"):
        load_fairseq_file(tmp_path / "hubert.pt")


def test_fairseq_file_with_something_else_than_a_tensor_among_the_weights(tmp_path: Path) -> None:
    state = fairseq_state(small_reference())
    state["model"]["layer_norm.weight"] = 3
    torch.save(state, tmp_path / "hubert.pt")
    with pytest.raises(TwistError, match="holds a int in place of a tensor"):
        load_fairseq_file(tmp_path / "hubert.pt")


@pytest.mark.parametrize("place", ["cfg", "model", "extra_state"])
@pytest.mark.parametrize("legacy", [False, True])
def test_fairseq_file_that_would_run_code_does_not(tmp_path: Path, legacy: bool, place: str) -> None:
    marker = tmp_path / "ran"
    state = fairseq_state(small_reference())
    state[place]["more"] = RunsOnUnpickling(marker)
    torch.save(state, tmp_path / "hubert.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(TwistError, match=r"hubert\.pt cannot be read as tensors \(it names (posix|nt)\.mkdir"):
        load_fairseq_file(tmp_path / "hubert.pt")
    assert not marker.exists(), "loading ran code from the file"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share_kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_fairseq_file(tmp_path: Path, share_kept: float, legacy: bool) -> None:
    path = tmp_path / "hubert.pt"
    torch.save(fairseq_state(small_reference()), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(share_kept * path.stat().st_size)])
    with pytest.raises(TwistError, match=r"hubert\.pt cannot be read"):
        load_fairseq_file(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_fairseq_files_give_our_error_or_load(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "hubert.pt"
    torch.save(fairseq_state(small_reference()), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    num_refused = 0
    for position in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            load_fairseq_file(path)
        except TwistError:
            num_refused += 1
    assert num_refused > 50, "hardly any flipped byte was noticed"


def test_fairseq_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pt", tmp_path):
        with pytest.raises(TwistError, match="cannot read"):
            load_fairseq_file(path)


def test_absurd_numbers_of_layers_are_refused() -> None:
    with pytest.raises(TwistError, match="num_hidden_layers asks for 65536 layers; at most 256 can be"):
        HubertConfig(num_hidden_layers=65536)
