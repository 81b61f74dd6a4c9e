"""Checkpoints of a classifier of languages in training: the classifier alone, without the encoder below it.

FOLDER/config.json               its shape, the width of the frames it takes, and its languages
FOLDER/classifier.safetensors    its weights
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import safetensors.torch
from safetensors import SafetensorError

from model import weights_file
from model.language_id.pooled import PooledClassifier
from model.language_id.pooled_config import PooledConfig
from model.language_id.pooled_folder import CLASSIFIER_WEIGHTS
from pipeline.errors import TwistError
from pipeline.files import foreign_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

CONFIG = "config.json"


def save(weights: Mapping[str, Tensor], config: PooledConfig, labels: Sequence[str], folder: Path) -> None:
    """Writes a classifier, its weights on the CPU, into an existing folder."""
    weights_file.save(dict(weights), folder / CLASSIFIER_WEIGHTS)
    facts = {"model": asdict(config), "feature_dim": len(weights["norm.weight"]), "languages": list(labels)}
    (folder / CONFIG).write_text(json.dumps(facts, indent=2) + "\n")


def load(folder: Path) -> tuple[PooledClassifier, tuple[str, ...]]:
    """A classifier and its languages.

    Raises:
        TwistError: it is missing or damaged.
    """
    try:
        facts = foreign_json.parse((folder / CONFIG).read_text())
        labels = tuple(map(str, facts["languages"]))
        classifier = PooledClassifier(PooledConfig(**facts["model"]), int(facts["feature_dim"]), len(labels))
        classifier.load_state_dict(safetensors.torch.load_file(folder / CLASSIFIER_WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise TwistError(f"{folder} holds no classifier of languages in training: {error}") from error
    return classifier, labels
