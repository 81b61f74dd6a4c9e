"""Reads and writes the folder of a small language classifier: a HuBERT's lower layers, and the classifier above them.

    FOLDER/config.json, model.safetensors, preprocessor_config.json   the HuBERT, up to the layer that is read
    FOLDER/classifier.safetensors    the classifier's weights
    FOLDER/classifier.json           its shape, languages and calibration, what it was trained on, and the sha256 of the
                                     other files; written last

The layers are stored with it, so that another tokenizer of the same name changes nothing.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model import weights_file
from model.artefacts import local_path
from model.encoder.config import EncoderConfig
from model.encoder.encoder import Encoder, load_encoder
from model.encoder.hubert_checkpoint import PREPARING
from model.language_id.calibration import Calibration
from model.language_id.pooled import PooledClassifier
from model.language_id.pooled_config import CLASSIFIER, PooledConfig
from pipeline.errors import TwistError, brief
from pipeline.files import foreign_json, storage
from pipeline.files.checksums import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from model.device import Device

FORMAT = "twist-language"
CLASSIFIER_WEIGHTS = "classifier.safetensors"
ENCODER_CONFIG, ENCODER_WEIGHTS = "config.json", "model.safetensors"
# Those with a sha256 in classifier.json.
CHECKED = (CLASSIFIER_WEIGHTS, ENCODER_WEIGHTS, ENCODER_CONFIG, *PREPARING)
_LAYER = re.compile(r"(?:hubert\.)?encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class PooledFacts:
    """What classifier.json says.

    Attributes:
        model: The classifier's shape.
        layer: Of the HuBERT, whose frames it reads.
        labels: The languages, the wanted one first.
        calibration: Of the wanted one's probability.
        trained_on: What it was trained on, in words.
    """

    model: PooledConfig
    layer: int
    labels: tuple[str, ...]
    calibration: Calibration
    trained_on: str

    @property
    def wanted(self) -> str:
        """The language that is told from all others."""
        return self.labels[0]


def read_facts(folder: Path) -> PooledFacts:
    """Reads classifier.json.

    Raises:
        TwistError: there is none, or it is damaged, or its weights are.
    """
    try:
        content = foreign_json.parse((folder / CLASSIFIER).read_text(encoding="utf-8"))
        facts = PooledFacts(
            PooledConfig(**content["model"]),
            int(content["layer"]),
            tuple(map(str, content["labels"])),
            Calibration(**content["calibration"]),
            str(content["trained_on"]),
        )
        is_ours = content["format"] == FORMAT and len(facts.labels) >= 2
        found, told = _sums(folder), dict(content["sha256"])
        damaged = [name for name in CHECKED if found.get(name) != told.get(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TwistError(f"{folder / CLASSIFIER} cannot be read as a language classifier's: {brief(error)}") from error
    if not is_ours:
        raise TwistError(f"{folder / CLASSIFIER} is no language classifier's of this project")
    if damaged:
        raise TwistError(
            f"{folder / damaged[0]} is not what {CLASSIFIER} says: damaged, or of a training that did not end; train "
            f"the classifier again, or copy it again"
        )
    return facts


def _sums(folder: Path) -> dict[str, str]:
    return {name: sha256_of(str(folder / name)) for name in CHECKED if (folder / name).is_file()}


def load_pooled(folder: Path, device: Device) -> tuple[Encoder, PooledClassifier, PooledFacts]:
    """Loads encoder and classifier, ready for inference in float32.

    Raises:
        TwistError: a file is missing or damaged, or they do not fit together.
    """
    facts = read_facts(folder)
    encoder = load_encoder(encoder_config(str(folder), facts.layer, device))
    classifier = PooledClassifier(facts.model, encoder.feature_dim, len(facts.labels))
    try:
        weights = safetensors.torch.load_file(folder / CLASSIFIER_WEIGHTS)
        classifier.load_state_dict({name: weight.float().clone() for name, weight in weights.items()})
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise TwistError(f"{folder / CLASSIFIER_WEIGHTS} does not fit {CLASSIFIER}: {brief(error)}") from error
    return encoder, classifier.eval().requires_grad_(False).to(encoder.device), facts


def write_pooled(folder: Path, encoder: str, weights: Mapping[str, Tensor], facts: PooledFacts) -> None:
    """Writes a classifier with the layers that it reads; its weights become float16.

    Args:
        folder: It is made if need be.
        encoder: The HuBERT whose frames it was trained on.
        weights: The classifier's state dict on the CPU.
        facts: What classifier.json says.

    Raises:
        TwistError: the HuBERT is no folder with config.json and model.safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_lower_layers(local_path(encoder), facts.layer, folder)
    weights_file.save(
        {name: weight.half().contiguous() for name, weight in weights.items()}, folder / CLASSIFIER_WEIGHTS
    )
    content: dict[str, Any] = {"format": FORMAT, **asdict(facts), "sha256": _sums(folder)}
    storage.write_bytes(str(folder / CLASSIFIER), (json.dumps(content, indent=2) + "\n").encode())


def encoder_config(path: str, layer: int, device: Device) -> EncoderConfig:
    """How the encoder is loaded, in training and after."""
    return EncoderConfig(name="hubert", path=path, layer=layer, device=device)


def scores_of(logits: Tensor) -> Tensor:
    """Log odds [B] of the first language against all others, of logits [B, L]."""
    return logits[:, 0] - torch.logsumexp(logits[:, 1:], dim=1)


def probabilities_of(logits: Tensor, calibration: Calibration) -> Tensor:
    """Probabilities [B, L] of logits [B, L]: the first calibrated, the others in the shares that the network gives."""
    wanted = torch.sigmoid(calibration.scale * scores_of(logits) + calibration.shift)[:, None]
    return torch.cat([wanted, (1 - wanted) * logits[:, 1:].softmax(dim=1)], dim=1)


def _write_lower_layers(source: Path, layer: int, folder: Path) -> None:
    try:
        config = json.loads((source / ENCODER_CONFIG).read_text(encoding="utf-8"))
        with safetensors.safe_open(source / ENCODER_WEIGHTS, "pt") as file:
            names: Sequence[str] = file.keys()
            kept = {name: file.get_tensor(name) for name in names if _layer_of(name) <= layer}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise TwistError(
            f"train_language.encoder {source} must be a folder with {ENCODER_CONFIG} and {ENCODER_WEIGHTS}, of which "
            f"the lower layers are stored with the classifier: {brief(error)}"
        ) from error
    weights_file.save(kept, folder / ENCODER_WEIGHTS, {"format": "pt"})
    content = json.dumps({**config, "num_hidden_layers": layer}, indent=2) + "\n"
    (folder / ENCODER_CONFIG).write_text(content, encoding="utf-8")
    for name in PREPARING:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _layer_of(name: str) -> int:
    """The layer of a weight, counted from 1; 0 for what lies below the layers."""
    match = _LAYER.match(name)
    return int(match[1]) + 1 if match else 0
