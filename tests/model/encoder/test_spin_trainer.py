"""Tuning: resumed equals uninterrupted, and a checkpoint is a HuBERT that says its level."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.encoder.hubert_checkpoint import load_hubert, write_huggingface_folder
from model.encoder.level import level_dbfs_of
from model.encoder.spin_trainer import tune
from model.training import checkpoint_steps
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from tests.model.encoder.test_spin import Tones, small_model, small_spin

if TYPE_CHECKING:
    from pathlib import Path

    from model.encoder.spin_config import SpinConfig
    from model.encoder.spin_trainer import SpinResult
    from model.training.training import OnEvent


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


def run(config: SpinConfig, folder: Path, on_event: OnEvent = lambda _: None) -> SpinResult:
    return tune(config, Tones(), Tones(8, fingerprint="held"), str(folder), on_event)


@pytest.fixture
def init(tmp_path: Path) -> str:
    folder = tmp_path / "init"
    folder.mkdir()
    model = small_model()
    write_huggingface_folder(model.config, model.state_dict(), folder, torch.zeros(model.config.hidden_size))
    return str(folder)


def curve(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("time", "audio_s_per_s")}
        for line in read_metrics(str(folder))
    ]


def test_resumed_equals_uninterrupted(tmp_path: Path, init: str) -> None:
    config = small_spin(init=init, checkpoint_every=2, validate_every=3)
    whole = run(config, tmp_path / "whole")

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        run(config, tmp_path / "killed", kill)
    resumed = run(config, tmp_path / "killed")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert resumed == dataclasses.replace(whole, checkpoint=resumed.checkpoint)
    assert whole.num_steps == 6 and whole.hours_seen == pytest.approx(6 * 4 * 0.8 / 3600)
    for name in ("model.safetensors", "head.safetensors"):
        ours, theirs = (
            load_file(f"{checkpoint_steps.step_folder(str(tmp_path / each), 6)}/{name}") for each in ("killed", "whole")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_a_checkpoint_encodes_at_its_level_and_keeps_what_is_not_tuned(tmp_path: Path, init: str) -> None:
    result = run(small_spin(init=init, level_dbfs=-26.0), tmp_path / "run")
    config = EncoderConfig(name="hubert", path=result.checkpoint, layer=1, device="cpu")
    assert level_dbfs_of(config) == -26.0
    encoder = load_encoder(config)
    wav = torch.from_numpy(Tones()[0])
    assert torch.allclose(encoder.encode([wav])[0], encoder.encode([wav * 0.01])[0], atol=1e-4)
    before, after = small_model().state_dict(), load_hubert(tmp_path / "run" / "00000006")[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("feature_extractor" in name or "layers.1." in name for name in changed)


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path, init: str) -> None:
    with pytest.raises(TwistError, match=r"spin\.layer is 3"):
        run(small_spin(init=init, layer=3), tmp_path / "run")


def test_other_clips_are_refused(tmp_path: Path, init: str) -> None:
    run(small_spin(init=init), tmp_path / "run")
    with pytest.raises(TwistError):
        tune(small_spin(init=init), Tones(fingerprint="other"), Tones(8), str(tmp_path / "run"))
