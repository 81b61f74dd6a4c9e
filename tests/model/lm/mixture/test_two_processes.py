"""Training on a mixture with two processes equals training with one, and goes on as if never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from model.lm.trainer import train
from model.training.metrics import read_metrics
from tests.model.lm.mixture.test_expressive import make_world as make_expressive_world
from tests.model.lm.mixture.test_training import config_of, make_world, weights_of
from tests.ray_clusters import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, os, sys
import torch
from model.lm.trainer import train
from tests.model.lm.mixture.test_training import World, config_of

torch.set_num_threads(1)
world, steps, checkpoints, expressive = json.loads(sys.argv[1])
world = World(*world)
config = config_of(world, num_steps=steps, gradient_accumulation=2, expressive=expressive)
train(config, world.shards, checkpoints, text=world.text)
"""


@pytest.mark.parametrize("expressive", [False, True])
def test_two_processes_equal_one(tmp_path: Path, expressive: bool) -> None:
    world = make_expressive_world(tmp_path) if expressive else make_world(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for steps in (4, 8):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
                *(str(script), json.dumps([world, steps, str(tmp_path / "two"), expressive])),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    train(config_of(world, expressive=expressive), world.shards, str(tmp_path / "one"), text=world.text)
    two, one = weights_of(tmp_path / "two", 8), weights_of(tmp_path / "one", 8)
    for name, weight in one.items():
        difference = (two[name] - weight).abs().max().item()
        assert difference < 1e-4, f"{name} differs by {difference}"
    curves = [[line for line in read_metrics(str(tmp_path / name)) if "loss" in line] for name in ("two", "one")]
    for here, there in zip(*curves, strict=True):
        assert here["step"] == there["step"]
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-4)
        assert here["tokens"] == there["tokens"], "tokens are counted over all processes"
        assert {n: v for n, v in here.items() if n.startswith("share_")} == {
            n: v for n, v in there.items() if n.startswith("share_")
        }
