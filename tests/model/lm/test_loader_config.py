"""The loader's settings as a training run keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model.lm.loader_config import LoaderConfig
from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.training.metrics import read_metrics
from model.training.resumption import refuse_other_settings
from pipeline.errors import TwistError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tests.model.conftest import MakeDataset


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 0.1}, "data.share was 1.0, is 0.1"),
        ({"corpus_weights": {"a": 2.0}}, 'data.corpus_weights was {}, is {"a": 2.0}'),
    ],
)
def test_a_run_on_other_data_refuses_to_go_on(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    begun = TrainConfig(architecture={"model_type": "opt"})
    before = json.loads(json.dumps(asdict(begun)))
    refuse_other_settings(before, begun, "train", str(tmp_path), 1)
    with pytest.raises(TwistError) as refusal:
        refuse_other_settings(before, replace(begun, data=LoaderConfig(**settings)), "train", str(tmp_path), 1)
    assert told in str(refusal.value)


def test_a_setting_that_an_earlier_version_lacked_had_its_default(tmp_path: Path) -> None:
    begun = TrainConfig(architecture={"model_type": "opt"})
    before = json.loads(json.dumps(asdict(begun)))
    for absent in ("bos_eos", "betas", "mixture", "data"):
        del before[absent]
    refuse_other_settings(before, begun, "train", str(tmp_path), 1)
    with pytest.raises(TwistError, match="bos_eos was false, is true"):
        refuse_other_settings(before, replace(begun, bos_eos=True), "train", str(tmp_path), 1)
    del (before := json.loads(json.dumps(asdict(begun))))["data"]["share"]
    refuse_other_settings(before, begun, "train", str(tmp_path), 1)
    with pytest.raises(TwistError, match=r"data\.share was 1\.0, is 0\.5"):
        refuse_other_settings(before, replace(begun, data=LoaderConfig(share=0.5)), "train", str(tmp_path), 1)


def test_where_units_come_from_may_change(tmp_path: Path) -> None:
    begun = TrainConfig(architecture={"model_type": "opt"})
    other = LoaderConfig(cache="/scratch", damaged="skip", verify_checksums=False)
    before = json.loads(json.dumps(asdict(begun)))
    refuse_other_settings(before, replace(begun, data=other), "train", str(tmp_path), 1)


def test_training_goes_on_past_a_damaged_shard_and_counts_it(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]], tiny_opt: dict[str, Any], tmp_path: Path
) -> None:
    dataset = make_dataset({"train": markov_units[:48], "validation": markov_units[48:]})
    Path(dataset.uri, "train/train-000001.tar").unlink()
    config = TrainConfig(
        architecture=tiny_opt, batch_size=8, max_units=40, num_steps=6, warmup_steps=2, log_every=6, device="cpu",
        data=LoaderConfig(damaged="skip"),
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"train-000001\.tar is missing.*left out"):
        train(config, dataset.uri, str(tmp_path / "run"))
    (last,) = [line for line in read_metrics(str(tmp_path / "run")) if "loss" in line]
    assert last["skipped_samples"] == 24, "six steps of eight samples are one epoch, of which half is gone"
    with pytest.raises(TwistError, match=r"train-000001\.tar is missing"):
        train(replace(config, data=LoaderConfig()), dataset.uri, str(tmp_path / "other"))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_training_ends_at_a_damaged_sample_of_either_split(
    make_dataset: MakeDataset,
    markov_units: list[NDArray[np.uint16]],
    tiny_opt: dict[str, Any],
    tmp_path: Path,
    split: str,
) -> None:
    dataset = make_dataset({"train": markov_units[:48], "validation": markov_units[48:]})
    config = TrainConfig(
        architecture=tiny_opt, batch_size=8, max_units=40, num_steps=6, warmup_steps=2, log_every=6, device="cpu"
    )
    shard = Path(dataset.uri, f"{split}/{split}-000000.tar")
    (offset,) = [row["units_offset"] for row in dataset.manifest.to_pylist() if row["key"] == f"{split}-0"]
    content = bytearray(shard.read_bytes())
    content[offset] ^= 1
    shard.write_bytes(content)
    with pytest.raises(TwistError, match=rf"{split}-000000\.tar is damaged: the units of sample '{split}-0' are not"):
        train(config, dataset.uri, str(tmp_path / "checked"))
    unchecked = replace(config, data=LoaderConfig(verify_checksums=False))
    result = train(unchecked, dataset.uri, str(tmp_path / "unchecked"))
    assert result.held_to == "the sizes of shards alone (data.verify_checksums is false)"
