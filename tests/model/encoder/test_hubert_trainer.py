"""Pretraining: resumed equals uninterrupted, passes and processes can share a step, checkpoints are HuBERTs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.encoder.hubert_trainer import pretrain
from model.encoder.pretrain_config import PretrainConfig
from model.training import checkpoint_steps
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from tests.model.labelled_tones import NETWORK, LabelledTones, small_config

if TYPE_CHECKING:
    from model.encoder.hubert_trainer import PretrainResult
    from model.training.training import OnEvent

CLIPS, VALIDATION = LabelledTones(), LabelledTones((44, 50, 60), fingerprint="more tones")
SCRIPT = """
import json, sys
import torch
from model.encoder.hubert_config import HubertConfig
from model.encoder.hubert_trainer import pretrain
from model.encoder.pretrain_config import PretrainConfig
from tests.model.labelled_tones import LabelledTones

torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
shape = {name: tuple(value) if isinstance(value, list) else value for name, value in settings["model"].items()}
config = PretrainConfig(**{**settings, "model": HubertConfig(**shape)})
pretrain(config, LabelledTones(), LabelledTones((44, 50, 60)), sys.argv[2])
"""


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


def train(config: PretrainConfig, folder: Path, on_event: OnEvent = lambda _: None) -> PretrainResult:
    return pretrain(config, CLIPS, VALIDATION, str(folder), on_event)


def at_step(step: int, do: Any) -> OnEvent:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            do()

    return on_event


def kill() -> None:
    raise Killed


def curve(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each step, without those that depend on time."""
    return [
        {name: value for name, value in line.items() if name not in ("time", "audio_s_per_s")}
        for line in read_metrics(str(folder))
    ]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    path = Path(checkpoint_steps.step_folder(str(folder), step))
    return {**load_file(path / "model.safetensors"), **load_file(path / "head.safetensors")}


def assert_same_run(folder: Path, reference: Path, step: int) -> None:
    assert curve(folder) == curve(reference), "the metrics differ from those of a run never stopped"
    ours, theirs = weights(folder, step), weights(reference, step)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "the weights differ"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_equals_uninterrupted(tmp_path: Path, num_workers: int) -> None:
    shape = dataclasses.replace(NETWORK, conv_pos_batch_norm=True)
    config = small_config(model=shape, checkpoint_every=4, validate_every=5, num_workers=num_workers)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", at_step(7, kill))
    resumed = train(config, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 10)
    assert resumed == dataclasses.replace(whole, checkpoint=resumed.checkpoint)
    assert whole.hours_seen > 0


def test_passes_part_a_step(tmp_path: Path) -> None:
    # Without batch norm, whose batch is one forward pass, and without random draws per pass.
    config = small_config(dropout=0.0, layer_drop=0.0)
    train(config, tmp_path / "one")
    train(dataclasses.replace(config, gradient_accumulation=2), tmp_path / "two")
    for line, other in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        for name in ("masked_loss", "unmasked_loss", "feature_penalty", "grad_norm"):
            if name in line:
                assert other[name] == pytest.approx(line[name], rel=1e-4), f"{name} at step {line['step']}"


def test_two_processes_equal_two_passes(tmp_path: Path) -> None:
    config = small_config(dropout=0.0, layer_drop=0.0, validate_every=5)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, json.dumps(dataclasses.asdict(config)), str(tmp_path / "processes")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    train(dataclasses.replace(config, gradient_accumulation=2), tmp_path / "passes")
    one, two = curve(tmp_path / "passes"), curve(tmp_path / "processes")
    assert [line["step"] for line in one] == [line["step"] for line in two], "only one process may write metrics"
    for line, other in zip(one, two, strict=True):
        for name, value in (line.get("validation") or line).items():
            told = (other.get("validation") or other)[name]
            assert told == pytest.approx(value, rel=1e-3, abs=1e-4), f"{name} at step {line['step']}"
    ours, theirs = weights(tmp_path / "passes", 10), weights(tmp_path / "processes", 10)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=f"{name} differs")


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_checkpoint_is_a_hubert(tmp_path: Path, batch_norm: bool) -> None:
    shape = dataclasses.replace(NETWORK, conv_pos_batch_norm=batch_norm)
    folder = train(small_config(model=shape, num_steps=3), tmp_path).checkpoint
    wav = torch.randn(16_000)
    encoder = load_encoder(EncoderConfig(name="hubert", path=folder, layer=2))
    theirs = transformers.HubertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(wav[None], output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(encoder.encode([wav])[0], expected, rtol=1e-4, atol=1e-4)


def test_another_model_is_where_training_starts(tmp_path: Path) -> None:
    first = train(small_config(), tmp_path / "first").checkpoint
    events = []
    config = small_config(init=first, num_steps=3, peak_lr=1e-12)
    train(config, tmp_path / "second", events.append)
    (init,) = (event for event in events if event["event"] == "init")
    assert init["num_taken"] == init["num_all"]
    begun, ended = load_file(Path(first) / "model.safetensors"), weights(tmp_path / "second", 3)
    for name in begun.keys() - {"masked_spec_embed"}:  # not part of the pretrained body
        torch.testing.assert_close(ended[name], begun[name], rtol=0, atol=1e-6, msg=name)


def test_init_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    trained = train(small_config(num_steps=3), tmp_path / "first").checkpoint
    first = Path(shutil.copytree(trained, tmp_path / "changed"))
    (first / "checksums.json").unlink()
    preprocessor = json.loads((first / "preprocessor_config.json").read_text())
    (first / "preprocessor_config.json").write_text(json.dumps({**preprocessor, "do_normalize": True}))
    with pytest.raises(TwistError, match="normalizes waveforms, which pretraining here does not"):
        train(small_config(init=str(first)), tmp_path / "second")


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    train(small_config(), tmp_path)
    with pytest.raises(TwistError, match=r"dropout"):
        train(small_config(dropout=0.2), tmp_path)
    with pytest.raises(TwistError, match="other clips or units"):
        pretrain(small_config(), LabelledTones(fingerprint="others"), VALIDATION, str(tmp_path))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"step \d+: not all is finite .*Lower pretrain.peak_lr"):
        train(small_config(peak_lr=1e30, clip_norm=None, num_steps=30), tmp_path)
