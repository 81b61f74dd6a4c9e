"""Training and tuning on Ray: the same losses as in one process, and a user's mistake is reported as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from jobs.train_on_ray import train_on_ray, tune_on_ray
from model.lm.speech_lm import cold_start
from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.lm.vocab import Vocabulary
from model.preferences.trainer import tune
from model.preferences.tune_config import TuneConfig
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from pipeline.shards import Sample, write_index, write_shard
from tests.model.preferences.conftest import write_pairs

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("faults")]

ARCHITECTURE = {
    "model_type": "opt",
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "dropout": 0.0,
}


@pytest.fixture(autouse=True)
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray whose workers find the tests' modules, and that ends with the test."""
    pytest.importorskip("ray.train")
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    ray.shutdown()  # a cluster that an earlier test started does not have this path
    yield
    ray.shutdown()


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


def losses(checkpoints: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(str(checkpoints)) if "loss" in line]


def test_two_workers_equal_one_process(shards: str, tmp_path: Path) -> None:
    config = TrainConfig(
        architecture=ARCHITECTURE,
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
    result = train_on_ray(config, shards, str(tmp_path / "ray"), 2, events.append)
    alone = train(config, shards, str(tmp_path / "alone"))
    assert result.is_finished and result.checkpoint == str(tmp_path / "ray" / "00000003")
    assert [event["event"] for event in events] == ["start"]
    assert events[0]["world_size"] == 2
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    assert alone.num_units_seen == result.num_units_seen
    with pytest.raises(TwistError, match="no finished shards"):
        train_on_ray(config, str(tmp_path / "nowhere"), str(tmp_path / "other"), 2, events.append)


def test_two_workers_tune_as_one_process(tmp_path: Path) -> None:
    init, pairs = str(tmp_path / "lm"), write_pairs(str(tmp_path / "pairs")).uri
    cold_start(ARCHITECTURE, Vocabulary(20, codebook_fingerprint="codebook-1"), seed=0).save_pretrained(init)
    config = TuneConfig(
        batch_size=4, max_units=30, num_steps=3, peak_lr=1e-2, warmup_steps=1, log_every=1, device="cpu"
    )
    events: list[dict[str, Any]] = []
    result = tune_on_ray(config, init, pairs, str(tmp_path / "ray"), 2, events.append)
    alone = tune(config, init, pairs, str(tmp_path / "alone"))
    assert result.is_finished and result.checkpoint == str(tmp_path / "ray" / "00000003")
    assert [(event["event"], event["world_size"]) for event in events] == [("start", 2)]
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    assert alone.num_pairs_seen == result.num_pairs_seen
    with pytest.raises(TwistError, match="nowhere"):
        tune_on_ray(config, init, str(tmp_path / "nowhere"), str(tmp_path / "other"), 2, events.append)
