"""Files of weights can be read by whoever can read the files beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, OPTConfig

from model import weights_file
from model.artefacts import EMBEDDED_FOLDER
from model.encoder.hubert_checkpoint import load_huggingface_folder, write_huggingface_folder
from model.training import checkpoint_parts
from model.vocoder.checkpoint import save_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.vocoder import Vocoder
from model.weights_file import refuse_not_finite
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = {0o022: 0o644, 0o002: 0o664, 0o077: 0o600}


@pytest.fixture(params=MODES, ids=oct)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield MODES[request.param]
    os.umask(before)


def assert_modes(folder: Path, mode: int) -> None:
    found = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert any(name.endswith(".safetensors") for name in found)
    assert found == dict.fromkeys(found, oct(mode))


def test_a_file_has_the_mode_of_any_new_one(mode: int, tmp_path: Path) -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.zeros(2, 3)}
    weights_file.save(tensors, tmp_path / "x.safetensors")
    assert_modes(tmp_path, mode)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in load_file(tmp_path / "x.safetensors").items())


def test_files_of_a_checkpoint(mode: int, tmp_path: Path) -> None:
    shape = OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    model = AutoModelForCausalLM.from_config(shape)

    def save_in_shards(folder: Path) -> None:
        model.save_pretrained(folder, max_shard_size="20KB")

    for rank in range(2):
        piece = {"exp_avg": torch.zeros(3)}
        state = {} if rank == 0 else None
        checkpoint_parts.write_part(str(tmp_path), 1, rank, 2, piece, save_in_shards if rank == 0 else None, state)
    parts = [checkpoint_parts.read_part_checksums(str(tmp_path), 1, rank) for rank in range(2)]
    folder = Path(checkpoint_parts.commit(str(tmp_path), 1, parts, None))
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert_modes(folder, mode)


def test_files_of_a_vocoder_and_of_a_hubert(mode: int, tmp_path: Path) -> None:
    vocoder = Vocoder(VocoderConfig.read(EMBEDDED_FOLDER / "hifigan-tiny-25hz" / "config.json"))
    (tmp_path / "voice").mkdir()
    save_vocoder(vocoder, tmp_path / "voice", None)
    assert_modes(tmp_path / "voice", mode)
    model, _ = load_huggingface_folder(EMBEDDED_FOLDER / "hubert-tiny-25hz")
    (tmp_path / "hubert").mkdir()
    width = model.config.hidden_size
    write_huggingface_folder(model.config, model.state_dict(), tmp_path / "hubert", torch.zeros(width))
    assert_modes(tmp_path / "hubert", mode)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    weights = {"a": torch.ones(2), "number": torch.tensor([3]), "b": torch.tensor([[1.0, value]])}
    refuse_not_finite({name: weights[name] for name in ("a", "number")}, "folder")
    with pytest.raises(TwistError, match="folder holds values in b that are not finite"):
        refuse_not_finite(weights, "folder")
