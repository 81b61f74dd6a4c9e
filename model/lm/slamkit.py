"""Reads folders of slamkit's UnitLM, a wrapper around a transformers causal LM.

config.json has the model_type `speech_language_model` and the LM's own config as `base_config`; names of weights begin
with `lm.`. Unit u has id u + 2, padding has id 0, and each sequence begins and ends with id 1
(github.com/slp-rl/slamkit, slamkit/model/unit_lm.py and tokeniser/unit_tokeniser.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from transformers import AutoConfig

from model.foreign_config import read_content
from model.lm.vocab import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

MODEL_TYPE = "speech_language_model"
PREFIX = "lm."
NUM_SPECIALS = 2


def is_unit_lm(folder: str) -> bool:
    """Whether a folder holds a UnitLM of slamkit.

    Raises:
        ValueError: its config.json holds no JSON object.
    """
    return bool(read_content(folder).get("model_type") == MODEL_TYPE)


def read_config(folder: str) -> PretrainedConfig:
    """The config of the wrapped LM, with the vocabulary's entries as in our own models.

    Raises:
        ValueError: `base_config` with its model_type, or vocab_size, is missing.
    """
    content = read_content(folder)
    base = content.get("base_config")
    if not isinstance(base, dict) or "model_type" not in base or not isinstance(content.get("vocab_size"), int):
        raise ValueError("its config.json has no base_config with a model_type, or no vocab_size")
    vocabulary = Vocabulary(content["vocab_size"] - NUM_SPECIALS, offset=NUM_SPECIALS, pad_id=0, bos_id=1)
    kept = {name: value for name, value in base.items() if name not in ("dtype", "torch_dtype")}
    return AutoConfig.for_model(**{**kept, **vocabulary.as_config()})


def read_weights(folder: str) -> dict[str, Tensor]:
    """The weights of the wrapped LM, under the names that it uses itself.

    Raises:
        ValueError: the folder has no weights.
    """
    files = sorted(Path(folder).glob("model*.safetensors"))
    weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
    if not weights:
        raise ValueError("there is no model.safetensors in it")
    return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
