"""Reads and writes pitch tokenizers: a folder of ours, or the published layout; nothing in a file is executed.

FOLDER/config.json          PitchModelConfig
FOLDER/model.safetensors    the weights

FOLDER/config.yaml          as published: features, encoder_params, decoder_params, vq_params
FOLDER/model.pt             weights under ["model"]
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError

from model import weights_file
from model.artefacts import local_path
from model.pitch.model_config import PitchModelConfig
from model.pitch.vqvae import NUM_CHANNELS, PitchVQVAE
from model.torch_file import TorchFile, mapping
from pipeline.errors import TwistError
from pipeline.files import foreign_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from model.pitch.model_config import Features

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PUBLISHED_CONFIG, PUBLISHED_WEIGHTS = "config.yaml", "model.pt"
MOST_YAML_BYTES = 2**20
MOST_NODES, DEEPEST = 100_000, 20
# Of a published model's state, what only training needs.
OF_TRAINING = ("k_sum", "k_elem", "init")
KNOWN_PARAMS = {
    "input_emb_width",
    "output_emb_width",
    "levels",
    "downs_t",
    "strides_t",
    "width",
    "depth",
    "m_conv",
    "dilation_growth_rate",
    "dilation_cycle",
    "zero_out",
    "res_scale",
    "reverse_decoder_dilation",
}


def local_pitch_model(path_or_name: str) -> Path:
    """Where a pitch tokenizer's folder lies on this machine; see `local_path`.

    Raises:
        TwistError: there is none of this name on S3.
        RunError: it cannot be fetched.
    """
    return local_path(path_or_name, beside=(PUBLISHED_CONFIG,))


def load_pitch_model(path: Path) -> PitchVQVAE:
    """Loads a pitch tokenizer in float32, ready for inference.

    Args:
        path: A folder of ours or of the published layout, or a published model.pt with its config.yaml beside it.

    Raises:
        TwistError: a file is missing or damaged, or is not a pitch tokenizer's.
    """
    folder = path.parent if path.is_file() else path
    if (folder / CONFIG).is_file():
        return read_pitch_model(folder / CONFIG, folder / WEIGHTS)
    if (folder / PUBLISHED_CONFIG).is_file():
        config = _read_published_config(folder / PUBLISHED_CONFIG)
        return _model_of(config, _read_published(folder / PUBLISHED_WEIGHTS), path)
    raise TwistError(f"{path} holds no pitch tokenizer: there is neither {CONFIG} nor {PUBLISHED_CONFIG} in it")


def read_pitch_model(config: Path, weights: Path) -> PitchVQVAE:
    """Reads a pitch tokenizer of our layout from its two files, in float32, ready for inference.

    Raises:
        TwistError: a file is missing or damaged, or is not a pitch tokenizer's.
    """
    return _model_of(_read_config(config), _read_weights(weights), config.parent)


def _model_of(config: PitchModelConfig, state: Mapping[str, Tensor], path: Path) -> PitchVQVAE:
    model = PitchVQVAE(config)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise TwistError(f"the pitch tokenizer in {path} is not of the shape that its config says: {reason}") from error
    if missing or unexpected:
        what = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which its config does not ask for"
        raise TwistError(f"the pitch tokenizer in {path} {what}; give the config that belongs to it")
    if not all(weight.isfinite().all() for weight in model.state_dict().values()):
        raise TwistError(f"the pitch tokenizer in {path} holds weights that are not finite")
    return model.eval().requires_grad_(False)


def write_pitch_model(config: PitchModelConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Writes a pitch tokenizer into an existing folder, from its state dict on the CPU."""
    weights_file.save(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n")


def save_pitch_model(model: PitchVQVAE, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes a pitch tokenizer into an existing folder."""
    weights = {name: weight.cpu().contiguous().to(dtype) for name, weight in model.state_dict().items()}
    write_pitch_model(model.config, weights, folder)


def fingerprint_of(model: PitchVQVAE) -> str:
    """What tells a tokenizer from others by the codes that it gives, in whichever layout and precision it is stored."""
    content = hashlib.sha256(json.dumps(model.config.to_json(), sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        content.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def _read_config(path: Path) -> PitchModelConfig:
    try:
        content = foreign_json.parse(path.read_text())
    except (OSError, ValueError) as error:
        raise TwistError(f"{path} cannot be read as the config of a pitch tokenizer: {error}") from error
    known = {field.name for field in fields(PitchModelConfig)}
    if not isinstance(content, dict) or content.keys() - known:
        told = (
            f"{sorted(content.keys() - known)[0]!r} is no setting of one" if isinstance(content, dict) else "no object"
        )
        raise TwistError(f"{path} is no config of a pitch tokenizer: {told}")
    try:
        return PitchModelConfig(**content)
    except TypeError as error:
        raise TwistError(f"{path} is no config of a pitch tokenizer: {error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        # Cloned: tensors in the mapped file are not aligned, and kernels may then round differently.
        return {name: weight.float().clone() for name, weight in safetensors.torch.load_file(path).items()}
    except FileNotFoundError:
        raise TwistError(f"{path.parent} holds no pitch tokenizer (there is no {path.name} in it)") from None
    except (OSError, SafetensorError) as error:
        raise TwistError(f"{path} is damaged: {error}") from error


def _read_published(path: Path) -> dict[str, Tensor]:
    with TorchFile(path) as file:
        try:
            state = mapping(mapping(file.content)["model"])
        except (ValueError, KeyError) as error:
            raise TwistError(f"{path} is no published pitch tokenizer: it holds no state named model") from error
        names = [name for name in map(str, state) if name.rpartition(".")[2] not in OF_TRAINING]
        return {name: file.tensor(state[name]).float() for name in names}


def _read_published_config(path: Path) -> PitchModelConfig:
    """The shape that a published config.yaml says; what is not said is as published.

    Raises:
        TwistError: it cannot be read, or asks for what this network does not have.
    """
    content = _read_yaml(path)
    try:
        encoder, decoder = ({**content[name]} for name in ("encoder_params", "decoder_params"))
        vq = content["vq_params"]
        shape: dict[str, Any] = {**encoder}
        _refuse_other_shapes(encoder, decoder, vq)
        return PitchModelConfig(
            # Which is checked where the config is made.
            features=cast("Features", str(content["features"]).replace(" ", "")),
            extractor="yaapt",
            num_codes=int(vq["l_bins"]),
            code_dim=int(vq["emb_width"]),
            width=int(shape["width"]),
            depth=int(shape["depth"]),
            hidden_share=float(shape["m_conv"]),
            dilation_growth=int(shape["dilation_growth_rate"]),
            num_halvings=int(shape["downs_t"][0]),
            scales_residuals=bool(shape.get("res_scale", False)),
            reverses_dilation=bool(decoder.get("reverse_decoder_dilation", False)),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        told = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise TwistError(f"{path} is no config of a published pitch tokenizer: {told}") from error


def _refuse_other_shapes(encoder: dict[str, Any], decoder: dict[str, Any], vq: dict[str, Any]) -> None:
    width = vq["emb_width"]
    for name, params in (("encoder_params", encoder), ("decoder_params", decoder)):
        expected = {
            "input_emb_width": NUM_CHANNELS,
            "output_emb_width": width,
            "levels": 1,
            "strides_t": [2],
            "dilation_cycle": None,
        }
        for key, value in params.items():
            if key not in KNOWN_PARAMS or (key in expected and value != expected[key]):
                raise ValueError(f"{name} has {key}: {value}, which is not supported")
        if len(params["downs_t"]) != 1:
            raise ValueError(f"{name} has more than one level")
    for key in ("width", "depth", "m_conv", "dilation_growth_rate", "downs_t", "res_scale"):
        if encoder.get(key) != decoder.get(key):
            raise ValueError(f"encoder_params and decoder_params differ in {key}")
    if vq.get("levels", 1) != 1:
        raise ValueError(f"vq_params has levels: {vq['levels']}, which is not supported")


def _num_nodes(node: yaml.Node | None, known: dict[int, int], depth: int = 0) -> int:
    """Values below a node with its aliases expanded, of which a few may stand for any number."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        inner = [one for pair in node.value for one in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_num_nodes(one, known, depth + 1) for one in inner)
    if known[id(node)] > MOST_NODES:
        raise ValueError(f"it has more than {MOST_NODES} values")
    return known[id(node)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
        if len(text) > MOST_YAML_BYTES:
            raise ValueError(f"it is longer than {MOST_YAML_BYTES} bytes")
        _num_nodes(yaml.compose(text, yaml.SafeLoader), {})
        content = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TwistError(f"{path} cannot be read as the config of a pitch tokenizer: {told}") from error
    if not isinstance(content, dict):
        raise TwistError(f"{path} is no config of a pitch tokenizer: it is no mapping")
    return content
