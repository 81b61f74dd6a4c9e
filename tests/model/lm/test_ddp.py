from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.training.metrics import read_metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tests.model.conftest import MakeDataset

SCRIPT = """
import json, sys
import torch
from model.lm.loader_config import LoaderConfig
from model.lm.train_config import TrainConfig
from model.lm.trainer import train

torch.set_num_threads(1)
settings, shards, checkpoints = json.loads(sys.argv[1]), *sys.argv[2:]
train(TrainConfig(**{**settings, "data": LoaderConfig(**settings["data"])}), shards, checkpoints)
"""


def torchrun(script: Path, config: TrainConfig, shards: str, checkpoints: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    settings = json.dumps(dataclasses.asdict(config))
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        [*command, settings, shards, str(checkpoints)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_two_ranks_equal_one(
    sharded: bool,
    make_dataset: MakeDataset,
    markov_units: list[NDArray[np.uint16]],
    tiny_opt: dict[str, Any],
    tmp_path: Path,
) -> None:
    splits = {"train": markov_units[:48], "validation": markov_units[48:]}
    dataset = make_dataset(splits, corpora=("librispeech", "voxpopuli"))
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    config = TrainConfig(
        architecture={**tiny_opt, "dropout": 0.0},
        batch_size=8,
        gradient_accumulation=2,
        max_units=32,
        num_steps=6,
        peak_lr=1e-3,
        final_lr=1e-4,
        warmup_steps=2,
        validate_every=3,
        checkpoint_every=3,
        log_every=1,
        device="cpu",
    )
    half = dataclasses.replace(config, num_steps=4)
    for stage in (half, config):  # the second run goes on where the first ended
        stage = dataclasses.replace(stage, sharded=sharded, activation_checkpointing=sharded)
        done = torchrun(script, stage, dataset.uri, tmp_path / "two")
        assert done.returncode == 0, done.stderr
    # Twice the accumulation in one process: the same micro-batches, one after the other.
    train(half, dataset.uri, str(tmp_path / "one"))
    train(dataclasses.replace(config, gradient_accumulation=4), dataset.uri, str(tmp_path / "one"))

    one, two = read_metrics(str(tmp_path / "one")), read_metrics(str(tmp_path / "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two], "only one process may write metrics"
    for line, other in zip(one, two, strict=True):
        if "loss" in line:
            assert line["loss"] == pytest.approx(other["loss"], abs=1e-5), f"step {line['step']}"
            assert line["grad_norm"] == pytest.approx(other["grad_norm"], abs=1e-5), f"step {line['step']}"
            assert line["tokens"] == other["tokens"]
        else:
            mean, other_mean = line["validation"]["mean"], other["validation"]["mean"]
            assert mean["num_targets"] == other_mean["num_targets"], "validation samples were left out or doubled"
            assert mean["perplexity"] == pytest.approx(other_mean["perplexity"], rel=1e-5)
    ours, theirs = (load_file(tmp_path / name / "00000006" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=f"{name} differs")

    # One process goes on from what two have saved, on the same samples.
    longer = dataclasses.replace(config, num_steps=8, gradient_accumulation=4)
    train(longer, dataset.uri, str(tmp_path / "one"))
    train(longer, dataset.uri, str(tmp_path / "two"))
    for line, other in zip(read_metrics(str(tmp_path / "one")), read_metrics(str(tmp_path / "two")), strict=True):
        if "loss" in line:
            assert line["loss"] == pytest.approx(other["loss"], abs=1e-5), f"step {line['step']}"
            assert line["tokens"] == other["tokens"], "another number of processes must not change the order of samples"


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_run_in_bfloat16_resumes_to_the_bit(
    sharded: bool,
    make_dataset: MakeDataset,
    markov_units: list[NDArray[np.uint16]],
    tiny_opt: dict[str, Any],
    tmp_path: Path,
) -> None:
    dataset = make_dataset({"train": markov_units[:48], "validation": markov_units[48:]})
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    config = TrainConfig(
        architecture=tiny_opt,
        batch_size=8,
        max_units=32,
        num_steps=6,
        peak_lr=1e-2,
        final_lr=1e-3,
        warmup_steps=2,
        precision="bfloat16",
        sharded=sharded,
        validate_every=6,
        checkpoint_every=3,
        log_every=1,
        device="cpu",
    )
    for stage, name in ((config, "whole"), (dataclasses.replace(config, num_steps=3), "parted"), (config, "parted")):
        done = torchrun(script, stage, dataset.uri, tmp_path / name)
        assert done.returncode == 0, done.stderr
    whole, parted = (
        {line["step"]: line["loss"] for line in read_metrics(str(tmp_path / name)) if "loss" in line}
        for name in ("whole", "parted")
    )
    assert whole == parted, "losses differ from those of a run never stopped"
    ours, theirs = (load_file(tmp_path / name / "00000006" / "model.safetensors") for name in ("whole", "parted"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
