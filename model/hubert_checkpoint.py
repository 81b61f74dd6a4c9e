"""Reads HuBERT checkpoints into HubertModel; one loader per format, each ending in `_build`.

Formats: a Hugging Face folder (`load_huggingface_folder`). A checkpoint comes from outside, so nothing in it is run:
weights are read as tensors only.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.hubert import HubertConfig, HubertModel
from pipeline.errors import TwistError

# Parameters of Hugging Face's HubertModel that only pretraining and fine-tuning read (the embedding of masked frames).
TRAINING_ONLY = {"masked_spec_embed"}
# torch's first weight norm named its two tensors otherwise; transformers wrote these names for years.
OLD_WEIGHT_NORM_NAMES = {
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}
SAMPLE_RATE_HZ = 16_000
NUM_NAMES_IN_ERROR = 5


def load_huggingface_folder(folder: Path) -> tuple[HubertModel, bool]:
    """Load a folder that transformers' `save_pretrained` wrote: a HubertModel, or a model with one under `hubert.`.

    Reads `config.json`; the weights in `model.safetensors`, else in `pytorch_model.bin`; and, where there is one,
    `preprocessor_config.json`.

    Returns:
        The model, in float32, on the CPU, in eval mode; and whether waveforms are to be normalized to zero mean and
        unit variance: the preprocessor's `do_normalize`, or False without a preprocessor.

    Raises:
        TwistError: a missing, unreadable or truncated file; a config of another architecture or with a setting that
            HubertModel does not have; missing, unexpected, mis-shaped or non-finite weights.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise TwistError(f"HuBERT folder {folder} {what}; give a folder with config.json and model.safetensors")
    config = _huggingface_config(folder / "config.json")
    weights_path = folder / "model.safetensors"
    if not weights_path.is_file():
        weights_path = folder / "pytorch_model.bin"
    if not weights_path.is_file():
        raise TwistError(f"HuBERT folder {folder} has neither model.safetensors nor pytorch_model.bin")
    weights = _read_safetensors(weights_path) if weights_path.suffix == ".safetensors" else _read_torch(weights_path)
    if any(name.startswith("hubert.") for name in weights):
        # What lies beside the body is a head (CTC, classification), which features do not pass through.
        weights = {
            name.removeprefix("hubert."): tensor for name, tensor in weights.items() if name.startswith("hubert.")
        }
    weights = {
        OLD_WEIGHT_NORM_NAMES.get(name, name): tensor for name, tensor in weights.items() if name not in TRAINING_ONLY
    }
    return _build(config, weights, weights_path), _huggingface_do_normalize(folder / "preprocessor_config.json")


def _huggingface_config(path: Path) -> HubertConfig:
    raw = _read_json(path)
    if raw.get("model_type") != "hubert":
        raise TwistError(f"{path} has model_type {raw.get('model_type')!r}; only 'hubert' can be loaded")
    if raw.get("adapter_attn_dim") is not None:
        raise TwistError(f"{path} has adapter_attn_dim {raw['adapter_attn_dim']!r}; adapter layers are not supported")
    known = {field.name for field in fields(HubertConfig)}
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in raw.items() if name in known
    }
    try:
        return HubertConfig(**settings)
    except TwistError as error:
        raise TwistError(f"{path}: {error}") from error


def _huggingface_do_normalize(path: Path) -> bool:
    if not path.is_file():
        return False
    raw = _read_json(path)
    if raw.get("sampling_rate", SAMPLE_RATE_HZ) != SAMPLE_RATE_HZ:
        raise TwistError(f"{path} has sampling_rate {raw['sampling_rate']!r}; only {SAMPLE_RATE_HZ} Hz is supported")
    do_normalize = raw.get("do_normalize", True)  # transformers' own default
    if not isinstance(do_normalize, bool):
        raise TwistError(f"{path} has do_normalize {do_normalize!r}; it must be true or false")
    return do_normalize


def _read_json(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise TwistError(f"{path} does not exist; a Hugging Face folder has one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TwistError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TwistError(f"{path} holds no JSON object")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise TwistError(f"{path} cannot be read ({error}); it may be truncated: fetch it again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        # weights_only: tensors and plain containers; a pickle that would run anything else is refused.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TwistError(f"{path} cannot be read as tensors ({reason}); it is damaged or holds other things") from error
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise TwistError(f"{path} is not a state dict: it must hold tensors by name")
    return dict(content)


def _build(config: HubertConfig, weights: dict[str, Tensor], source: Path) -> HubertModel:
    """A model with exactly these weights, by HubertModel's own names, in float32."""
    # Sizes are compared before memory is taken for them: a config may ask for any amount.
    with torch.device("meta"):
        model = HubertModel(config)
    expected = model.state_dict()
    for problem, names in (
        ("lacks", [name for name in expected if name not in weights]),
        ("has unexpected", [name for name in weights if name not in expected]),
        (
            "has tensors whose shape its config does not give:",
            [
                f"{name} {list(weights[name].shape)} (config: {list(tensor.shape)})"
                for name, tensor in expected.items()
                if name in weights and weights[name].shape != tensor.shape
            ],
        ),
        (
            "has NaN or infinite values in",
            [name for name, tensor in weights.items() if name in expected and not tensor.float().isfinite().all()],
        ),
    ):
        if names:
            shown = ", ".join(names[:NUM_NAMES_IN_ERROR])
            more = f" and {len(names) - NUM_NAMES_IN_ERROR} more" if len(names) > NUM_NAMES_IN_ERROR else ""
            raise TwistError(f"{source} {problem} {shown}{more}: it is not the checkpoint its config describes")
    model.load_state_dict({name: weights[name].to(tensor.dtype) for name, tensor in expected.items()}, assign=True)
    return model.eval()
