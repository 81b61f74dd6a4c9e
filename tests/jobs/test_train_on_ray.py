"""Training on Ray: the same losses as under torchrun, and a user's mistake is reported as one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from jobs.train_on_ray import train_on_ray
from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from pipeline.shards import Sample, write_index, write_shard

pytestmark = pytest.mark.faults


@pytest.fixture
def shards(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    written = []
    for split, count in (("train", 12), ("validation", 4)):
        samples = []
        for number in range(count):
            units = rng.permutation(20)[: 6 + number].astype(np.uint16)
            key = f"{split}-{number}"
            samples.append(Sample(key, key, "c", None, "en", split, 0.0, 1.0, units, np.ones(len(units), np.uint16)))
        written.append(write_shard(str(tmp_path / "shards"), f"{split}/{split}-000000.tar", samples))
    info = {"num_units": 20, "frame_rate_hz": 25, "codebook": {"fingerprint": "c"}}
    rows = [row for _, part in written for row in part]
    write_index(str(tmp_path / "shards"), {**info, "shards": [description for description, _ in written]}, rows)
    return str(tmp_path / "shards")


def test_two_workers_equal_one_process(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.train")
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2])]))
    ray.shutdown()  # a cluster that an earlier test started does not have this path
    config = TrainConfig(
        architecture={
            "model_type": "opt",
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "dropout": 0.0,
        },
        batch_size=4,
        max_units=32,
        num_steps=3,
        peak_lr=1e-2,
        final_lr=1e-3,
        warmup_steps=1,
        log_every=1,
        device="cpu",
    )
    events: list[dict[str, Any]] = []
    try:
        result = train_on_ray(config, shards, str(tmp_path / "ray"), 2, events.append)
        alone = train(config, shards, str(tmp_path / "alone"))
        assert result.is_finished and result.checkpoint == str(tmp_path / "ray" / "00000003")
        assert [event["event"] for event in events] == ["start"]
        assert events[0]["world_size"] == 2
        ours, theirs = (read_metrics(str(tmp_path / name)) for name in ("ray", "alone"))
        assert [line["loss"] for line in ours if "loss" in line] == pytest.approx(
            [line["loss"] for line in theirs if "loss" in line], abs=1e-5
        )
        assert alone.num_units_seen == result.num_units_seen
        with pytest.raises(TwistError, match="no finished shards"):
            train_on_ray(config, str(tmp_path / "nowhere"), str(tmp_path / "other"), 2, events.append)
    finally:
        ray.shutdown()
