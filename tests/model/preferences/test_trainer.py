"""Tuning: accuracy rises, a killed run ends with the same bits, two processes do as one, S3, refusals."""

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
from safetensors.torch import load_file

from model.preferences import trainer
from model.preferences.pair_shards import PairDataset, PreferencePair
from model.preferences.trainer import tune
from model.preferences.tune_config import TuneConfig
from model.training import checkpoint_steps
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from tests.model.preferences.conftest import synthetic_pairs, write_pairs
from tests.ray_clusters import ROOT, free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG = TuneConfig(
    batch_size=8,
    max_units=60,
    num_steps=12,
    peak_lr=3e-3,
    warmup_steps=2,
    validate_every=4,
    checkpoint_every=3,
    log_every=1,
    device="cpu",
)


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


def killed_at(step: int) -> Any:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    return on_event


def curve(folder: Path | str) -> list[tuple[Any, ...]]:
    names = ("step", "loss", "grad_norm", "lr", "pairs", "gain_accuracy", "margin", "validation")
    return [tuple(line.get(name) for name in names) for line in read_metrics(str(folder))]


def weights(folder: Path | str, step: int) -> dict[str, torch.Tensor]:
    return load_file(Path(checkpoint_steps.step_folder(str(folder), step), "model.safetensors"))


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_held_out_pairs_are_told_better(reference: str, pairs: PairDataset, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=80, peak_lr=1e-2)
    result = tune(config, reference, pairs.uri, str(tmp_path / "tuned"))
    assert result.best is not None and result.is_finished
    assert result.initial.loss == pytest.approx(0.693147, abs=1e-6)
    assert result.initial.gain_accuracy == 0.5, "ties"
    assert result.best.gain_accuracy > 0.9
    assert result.best.accuracy > result.initial.accuracy + 0.2
    assert result.best.loss < 0.5
    assert result.num_pairs_seen == 640
    assert read_metrics(str(tmp_path / "tuned"))[1]["loss"] == pytest.approx(0.693147, abs=1e-4), (
        "the first step begins at the reference, without dropout"
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_equals_uninterrupted(reference: str, pairs: PairDataset, precision: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, precision=precision)
    whole = tune(config, reference, pairs.uri, str(tmp_path / "whole"))
    with pytest.raises(Killed):
        tune(config, reference, pairs.uri, str(tmp_path / "killed"), killed_at(8))
    resumed = tune(config, reference, pairs.uri, str(tmp_path / "killed"))
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert_same(weights(tmp_path / "killed", 12), weights(tmp_path / "whole", 12))
    assert resumed == dataclasses.replace(whole, checkpoint=resumed.checkpoint)


def test_reference_log_probs_are_computed_once_and_again_if_they_are_lost(
    reference: str, pairs: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = tmp_path / "tuned"
    tune(dataclasses.replace(CONFIG, num_steps=6), reference, pairs.uri, str(tuned))
    kept = {path.name: path.read_bytes() for path in tuned.glob("reference-*.parquet")}
    assert len(kept) == 2, "of train and of validation"
    shutil.copytree(tuned, tmp_path / "other")
    for name in kept:
        (tmp_path / "other" / name).unlink()
    tune(CONFIG, reference, pairs.uri, str(tmp_path / "other"))
    assert {name: (tmp_path / "other" / name).read_bytes() for name in kept} == kept
    monkeypatch.setattr(trainer, "_working", lambda *_: pytest.fail("the reference is loaded though all is kept"))
    tune(CONFIG, reference, pairs.uri, str(tuned))
    assert_same(weights(tuned, 12), weights(tmp_path / "other", 12))


def test_memory_settings_change_nothing(reference: str, pairs: PairDataset, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=4)
    tune(config, reference, pairs.uri, str(tmp_path / "plain"))
    others = {"gradient_accumulation": 4, "activation_checkpointing": True, "num_workers": 1}
    for name, value in others.items():
        tune(dataclasses.replace(config, **{name: value}), reference, pairs.uri, str(tmp_path / name))
        for one, other in zip(curve(tmp_path / "plain"), curve(tmp_path / name), strict=True):
            assert one[1:3] == pytest.approx(other[1:3], abs=1e-5), f"{name} at step {one[0]}"


def test_pairs_that_are_too_long_are_counted(reference: str, pairs: PairDataset, tmp_path: Path) -> None:
    started: list[dict[str, Any]] = []
    config = dataclasses.replace(CONFIG, num_steps=1, max_units=16)
    tune(config, reference, pairs.uri, str(tmp_path / "tuned"), started.append)
    facts = next(event for event in started if event["event"] == "start")
    assert facts["num_too_long"] > 0
    assert facts["num_train_pairs"] + facts["num_validation_pairs"] + facts["num_too_long"] == 84
    with pytest.raises(TwistError, match=r"all 60 are longer than tune.max_units"):
        tune(dataclasses.replace(config, max_units=2), reference, pairs.uri, str(tmp_path / "none"))


def test_what_does_not_fit_is_refused(reference: str, pairs: PairDataset, tmp_path: Path) -> None:
    tuned = str(tmp_path / "tuned")
    tune(dataclasses.replace(CONFIG, num_steps=2), reference, pairs.uri, tuned)
    other = write_pairs(str(tmp_path / "other"), synthetic_pairs(30, 10, seed=1))
    with pytest.raises(TwistError, match="tuned on another pairs than those given"):
        tune(CONFIG, reference, other.uri, tuned)
    with pytest.raises(TwistError, match=r"beta.* 0\.1.*0\.2"):
        tune(dataclasses.replace(CONFIG, beta=0.2), reference, pairs.uri, tuned)
    foreign = write_pairs(str(tmp_path / "foreign"), codebook={"fingerprint": "codebook-2"})
    with pytest.raises(TwistError, match="units of another codebook"):
        tune(CONFIG, reference, foreign.uri, str(tmp_path / "new"))
    with pytest.raises(TwistError, match=r"tune.batch_size 8 cannot be parted evenly"):
        tune(dataclasses.replace(CONFIG, gradient_accumulation=3), reference, pairs.uri, str(tmp_path / "new"))
    no_validation: list[PreferencePair] = synthetic_pairs(20, 0)
    with pytest.raises(TwistError, match="has no pair in its validation split"):
        tune(CONFIG, reference, write_pairs(str(tmp_path / "n"), no_validation).uri, str(tmp_path / "new"))
    with pytest.raises(TwistError, match=r"tune\.beta is 0"):
        TuneConfig(beta=0)


def test_checkpoints_and_pairs_may_lie_on_s3(
    reference: str, faulty_bucket: str, pairs: PairDataset, tmp_path: Path
) -> None:
    on_s3 = write_pairs(f"{faulty_bucket}/pairs")
    tune(dataclasses.replace(CONFIG, num_steps=3), reference, on_s3.uri, f"{faulty_bucket}/tuned")
    result = tune(CONFIG, reference, on_s3.uri, f"{faulty_bucket}/tuned")
    local = tune(CONFIG, reference, pairs.uri, str(tmp_path / "local"))
    assert result.best == local.best


SCRIPT = """
import json, os, sys
import torch
from model.preferences.trainer import tune
from model.preferences.tune_config import TuneConfig

torch.set_num_threads(1)
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
for port, settings, reference, pairs, checkpoints in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    tune(TuneConfig(**settings), reference, pairs, checkpoints)
"""


def on_two_processes(folder: Path, runs: Sequence[tuple[TuneConfig, str, str, Path]]) -> None:
    script = folder / "tune_several.py"
    script.write_text(SCRIPT)
    arguments = [
        (port, dataclasses.asdict(config), reference, pairs, str(checkpoints))
        for port, (config, reference, pairs, checkpoints) in zip(free_ports(len(runs)), runs, strict=True)
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_do_as_one(reference: str, pairs: PairDataset, tmp_path: Path) -> None:
    """Replicated and sharded; and a run of two processes resumes bit by bit."""
    sharded = dataclasses.replace(CONFIG, sharded=True)
    runs = [
        (CONFIG, reference, pairs.uri, tmp_path / "two"),
        (sharded, reference, pairs.uri, tmp_path / "sharded"),
        (dataclasses.replace(CONFIG, num_steps=6), reference, pairs.uri, tmp_path / "resumed"),
        (CONFIG, reference, pairs.uri, tmp_path / "resumed"),
    ]
    on_two_processes(tmp_path, runs)
    tune(CONFIG, reference, pairs.uri, str(tmp_path / "one"))
    for name in ("two", "sharded"):
        for one, other in zip(curve(tmp_path / "one"), curve(tmp_path / name), strict=True):
            assert one[1:3] == pytest.approx(other[1:3], abs=1e-4), f"{name} at step {one[0]}"
    assert_same(weights(tmp_path / "resumed", 12), weights(tmp_path / "two", 12))
