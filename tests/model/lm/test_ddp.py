"""Training on two processes, replicated and sharded: equal to one process, and resumed as if never stopped.

torchrun is started only twice, for all runs together, because loading takes longer than training. The second start
resumes the runs that the first one left unfinished.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.training.metrics import read_metrics
from tests.model.conftest import write_dataset
from tests.ray_clusters import ROOT, free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

SCRIPT = """
import json, os, sys
import torch
from model.lm.loader_config import LoaderConfig
from model.lm.train_config import TrainConfig
from model.lm.trainer import train

torch.set_num_threads(1)
# Each run meets at a port of its own; torchrun's own store would still hold the addresses of the run before.
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
for port, settings, shards, checkpoints in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    train(TrainConfig(**{**settings, "data": LoaderConfig(**settings["data"])}), shards, checkpoints)
"""
MODES = ("replicated", "sharded", "bos_eos")


class Run(NamedTuple):
    """A training on two processes, and the folder of its checkpoints."""

    config: TrainConfig
    checkpoints: Path

    def until(self, num_steps: int) -> Run:
        return self._replace(config=dataclasses.replace(self.config, num_steps=num_steps))


class Trained(NamedTuple):
    """The folder of all trainings on two processes, and their shards."""

    folder: Path
    shards: str


def torchrun(script: Path, runs: Sequence[Run], shards: str) -> None:
    """Does these runs one after another on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    arguments = [
        (port, dataclasses.asdict(run.config), shards, str(run.checkpoints))
        for port, run in zip(free_ports(len(runs)), runs, strict=True)
    ]
    done = subprocess.run(
        [*command, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def equality_config(tiny_opt: dict[str, Any]) -> TrainConfig:
    """Settings of runs that are compared with one process, without dropout: its draws would differ."""
    return TrainConfig(
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


def bfloat16_config(tiny_opt: dict[str, Any]) -> TrainConfig:
    """Settings of runs that are stopped and resumed."""
    return TrainConfig(
        architecture=tiny_opt,
        batch_size=8,
        max_units=32,
        num_steps=6,
        peak_lr=1e-2,
        final_lr=1e-3,
        warmup_steps=2,
        precision="bfloat16",
        validate_every=6,
        checkpoint_every=3,
        log_every=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def trained(
    markov_units: list[NDArray[np.uint16]], tiny_opt: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Per mode: `two`, resumed after step 4; in bfloat16 `whole`, never stopped, and `parted`, resumed after step 3."""
    folder = tmp_path_factory.mktemp("ddp")
    splits = {"train": markov_units[:48], "validation": markov_units[48:]}
    shards = write_dataset(str(folder / "shards"), splits, corpora=("librispeech", "voxpopuli")).uri
    whole, parted = [], []
    for mode in MODES:
        sharded = mode == "sharded"
        equal = dataclasses.replace(equality_config(tiny_opt), sharded=sharded, activation_checkpointing=sharded)
        bfloat16 = dataclasses.replace(bfloat16_config(tiny_opt), sharded=sharded)
        equal, bfloat16 = (dataclasses.replace(config, bos_eos=mode == "bos_eos") for config in (equal, bfloat16))
        parted += [(Run(equal, folder / mode / "two"), 4), (Run(bfloat16, folder / mode / "parted"), 3)]
        whole.append(Run(bfloat16, folder / mode / "whole"))
    script = folder / "train.py"
    script.write_text(SCRIPT)
    torchrun(script, [*whole, *(run.until(num_steps) for run, num_steps in parted)], shards)
    torchrun(script, [run for run, _ in parted], shards)
    return Trained(folder, shards)


# These tests share a process, which does the runs once.
@pytest.mark.xdist_group("ddp")
@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_equal_one(mode: str, trained: Trained, tiny_opt: dict[str, Any], tmp_path: Path) -> None:
    config, shards = dataclasses.replace(equality_config(tiny_opt), bos_eos=mode == "bos_eos"), trained.shards
    alone, together = tmp_path / "one", Path(shutil.copytree(trained.folder / mode / "two", tmp_path / "two"))
    train(dataclasses.replace(config, num_steps=4), shards, str(alone))
    # Twice the accumulation in one process: the same micro-batches, one after the other.
    train(dataclasses.replace(config, gradient_accumulation=4), shards, str(alone))

    one, two = read_metrics(str(alone)), read_metrics(str(together))
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
    ours, theirs = (load_file(folder / "00000006" / "model.safetensors") for folder in (alone, together))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=f"{name} differs")

    # One process continues from a checkpoint of two, on the same samples.
    longer = dataclasses.replace(config, num_steps=8, gradient_accumulation=4)
    for folder in (alone, together):
        train(longer, shards, str(folder))
    for line, other in zip(read_metrics(str(alone)), read_metrics(str(together)), strict=True):
        if "loss" in line:
            assert line["loss"] == pytest.approx(other["loss"], abs=1e-5), f"step {line['step']}"
            assert line["tokens"] == other["tokens"], "another number of processes must not change the order of samples"


@pytest.mark.xdist_group("ddp")
@pytest.mark.parametrize("mode", MODES)
def test_run_in_bfloat16_resumes_to_the_bit(mode: str, trained: Trained) -> None:
    folders = [trained.folder / mode / name for name in ("whole", "parted")]
    whole, parted = (
        {line["step"]: line["loss"] for line in read_metrics(str(folder)) if "loss" in line} for folder in folders
    )
    assert len(whole) == 6
    assert whole == parted, "losses differ from those of a run never stopped"
    ours, theirs = (load_file(folder / "00000006" / "model.safetensors") for folder in folders)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
