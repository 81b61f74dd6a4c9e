from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from model.lm.generate import end_ids
from model.lm.loader import TrainingBatches
from model.lm.mixture.config import MixtureConfig
from model.lm.ngram import best_order
from model.lm.perplexity import perplexity
from model.lm.row_packing import padded_rows
from model.lm.samples import UnitSamples
from model.lm.speech_lm import cold_start, document_logits, load_speech_lm
from model.lm.train_config import TrainConfig
from model.lm.trainer import TrainResult, train
from model.lm.vocab import Vocabulary
from model.training import checkpoint_steps
from model.training.metrics import read_metrics
from pipeline.errors import TwistError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.shards import Dataset
    from tests.model.conftest import MakeDataset


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


@pytest.fixture
def dataset(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> Dataset:
    splits = {"train": markov_units[:48], "validation": markov_units[48:]}
    return make_dataset(splits, corpora=("librispeech", "voxpopuli"))


@pytest.fixture
def config(tiny_opt: dict[str, Any]) -> TrainConfig:
    """12 steps of a model with dropout; nothing happens on schedule before the last."""
    return TrainConfig(
        architecture=tiny_opt,
        batch_size=8,
        max_units=32,
        num_steps=12,
        peak_lr=1e-2,
        final_lr=1e-3,
        warmup_steps=2,
        validate_every=1000,
        checkpoint_every=1000,
        log_every=1,
        device="cpu",
    )


def curve(folder: Path | str) -> list[tuple[Any, ...]]:
    """The metrics of each step, without those that depend on time."""
    return [
        (
            line["step"],
            line.get("loss"),
            line.get("grad_norm"),
            line.get("lr"),
            line.get("tokens"),
            line.get("validation"),
        )
        for line in read_metrics(str(folder))
    ]


def weights(folder: Path | str, step: int) -> dict[str, torch.Tensor]:
    return load_file(Path(checkpoint_steps.step_folder(str(folder), step), "model.safetensors"))


def killed_at(step: int) -> Any:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    return on_event


def assert_same_run(folder: Path, reference: Path, step: int) -> None:
    assert curve(folder) == curve(reference), "the metrics differ from those of a run never stopped"
    ours, theirs = weights(folder, step), weights(reference, step)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), (
        "the weights differ from those of a run never stopped"
    )


@pytest.mark.parametrize("bos_eos", [False, True])
def test_resumed_equals_uninterrupted(dataset: Dataset, config: TrainConfig, bos_eos: bool, tmp_path: Path) -> None:
    config = dataclasses.replace(config, checkpoint_every=4, validate_every=5, bos_eos=bos_eos)
    whole = train(config, dataset.uri, str(tmp_path / "whole"))

    with pytest.raises(Killed):
        train(config, dataset.uri, str(tmp_path / "killed"), killed_at(7))
    resumed = train(config, dataset.uri, str(tmp_path / "killed"))
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 12)
    expected = dataclasses.replace(whole, checkpoint=resumed.checkpoint)
    assert resumed == expected, "the result must not tell that the run was interrupted"


@pytest.mark.parametrize("setting", ["activation_checkpointing", "compile"])
def test_memory_and_speed_change_nothing(
    setting: str, dataset: Dataset, config: TrainConfig, tiny_opt: dict[str, Any], tmp_path: Path
) -> None:
    if setting == "compile" and shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    config = dataclasses.replace(config, architecture={**tiny_opt, "dropout": 0.0}, num_steps=3)
    train(config, dataset.uri, str(tmp_path / "plain"))
    train(dataclasses.replace(config, **{setting: True}), dataset.uri, str(tmp_path / setting))
    for plain, other in zip(curve(tmp_path / "plain"), curve(tmp_path / setting), strict=True):
        assert plain[1:3] == pytest.approx(other[1:3], abs=1e-5), f"the loss or gradient differs at step {plain[0]}"


@pytest.mark.parametrize("family", ["bloom", "imagegpt"])
def test_recomputed_layers_see_the_same_documents(
    family: str, dataset: Dataset, config: TrainConfig, tmp_path: Path
) -> None:
    architecture = {"model_type": family, "n_layer": 2, "n_head": 4}
    sizes = {"bloom": {"hidden_size": 32}, "imagegpt": {"n_embd": 32, "n_positions": 64, "resid_pdrop": 0.0}}[family]
    others = {"embd_pdrop": 0.0, "attn_pdrop": 0.0} if family == "imagegpt" else {}
    config = dataclasses.replace(config, architecture={**architecture, **sizes, **others}, num_steps=3)
    train(config, dataset.uri, str(tmp_path / "kept"))
    train(dataclasses.replace(config, activation_checkpointing=True), dataset.uri, str(tmp_path / "recomputed"))
    for kept, recomputed in zip(curve(tmp_path / "kept"), curve(tmp_path / "recomputed"), strict=True):
        assert kept[1:3] == pytest.approx(recomputed[1:3], abs=1e-5), f"step {kept[0]}"


@pytest.mark.parametrize("bos_eos", [False, True])
def test_first_steps_equal_a_plain_transformers_loop(
    dataset: Dataset, config: TrainConfig, tiny_opt: dict[str, Any], bos_eos: bool, tmp_path: Path
) -> None:
    architecture = {**tiny_opt, "dropout": 0.0}
    config = dataclasses.replace(config, architecture=architecture, num_steps=20, bos_eos=bos_eos)
    train(config, dataset.uri, str(tmp_path))

    vocabulary = Vocabulary.of_dataset(dataset, bos_eos=bos_eos)
    model = cold_start(architecture, vocabulary, config.seed).train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: config.learning_rate(n + 1))
    samples = UnitSamples(dataset, "train", config.max_units)
    batches = TrainingBatches(samples, vocabulary, batch_size=8, num_micro_batches=1, seed=0)
    for step, loss, grad_norm, rate, *_ in (line for line in curve(tmp_path) if line[1] is not None):
        (micro_batch,) = batches[step - 1].micro_batches
        rows = padded_rows(micro_batch, vocabulary.pad_id)
        token_ids, labels = rows.token_ids, rows.labels
        output = model(input_ids=token_ids, attention_mask=(token_ids != 0).long(), labels=labels)
        output.loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert loss == pytest.approx(output.loss.item(), abs=1e-5), f"step {step}"
        assert grad_norm == pytest.approx(norm.item(), abs=1e-4), f"step {step}"
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"]), f"step {step}"
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    assert step == 20


def test_with_eos_a_model_learns_where_speech_ends(dataset: Dataset, config: TrainConfig, tmp_path: Path) -> None:
    """Its checkpoint says that it has both, so that scoring and generation use them."""
    config = dataclasses.replace(config, bos_eos=True, num_steps=60, max_units=64 - 2)
    train(config, dataset.uri, str(tmp_path))
    model, vocabulary = load_speech_lm(checkpoint_steps.step_folder(str(tmp_path), 60))
    assert (vocabulary.start_ids, vocabulary.end_ids, vocabulary.offset) == ((1,), (1,), 2)
    assert vocabulary.vocab_size == model.config.vocab_size == 22
    assert end_ids(model) == {1}, "a continuation may end by itself"
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 1, 0)
    units = torch.tensor([1, *vocabulary.encode(dataset_units(dataset)).tolist()])
    shares = document_logits(model.eval(), units, [len(units)]).softmax(dim=-1)
    assert shares[1:9, 1].max() < shares[9:, 1].max(), "no sample ends before its ninth unit"
    with pytest.raises(TwistError, match="only 62 positions for units"):
        train(dataclasses.replace(config, max_units=63), dataset.uri, str(tmp_path / "longer"))


def dataset_units(dataset: Dataset) -> NDArray[np.uint16]:
    samples = UnitSamples(dataset, "validation", 64)
    longest: NDArray[np.uint16] = samples[int(samples.num_units.argmax())]
    return longest


def test_accumulation_changes_nothing(
    dataset: Dataset, config: TrainConfig, tiny_opt: dict[str, Any], tmp_path: Path
) -> None:
    config = dataclasses.replace(config, architecture={**tiny_opt, "dropout": 0.0})
    for parts in (1, 4):
        train(dataclasses.replace(config, gradient_accumulation=parts), dataset.uri, str(tmp_path / str(parts)))
    for whole, parted in zip(curve(tmp_path / "1"), curve(tmp_path / "4"), strict=True):
        assert whole[1:3] == pytest.approx(parted[1:3], abs=1e-5), (
            "micro-batches of unlike length must weigh by targets"
        )


def test_learns_more_than_unit_frequencies(dataset: Dataset, config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, num_steps=120, validate_every=40)
    result = train(config, dataset.uri, str(tmp_path))
    assert result.best is not None
    assert 15 < result.initial.mean.perplexity < 30, "an untrained model is near chance over 20 units"
    assert result.best.mean.perplexity < 0.6 * result.baseline.mean.perplexity, "a Markov chain must be learned"
    assert list(result.ngrams) == [1, 2, 3, 4, 5]
    assert best_order(result.ngrams) > 1
    assert result.ngrams[best_order(result.ngrams)].mean.perplexity < 0.8 * result.baseline.mean.perplexity
    assert result.ngrams[2].mean.num_targets == result.best.mean.num_targets, "all are told of the same units"
    assert train(config, dataset.uri, str(tmp_path)).ngrams == result.ngrams, "what a checkpoint keeps"
    model, vocabulary = load_speech_lm(result.checkpoint)
    again = perplexity(model, vocabulary, UnitSamples(dataset, "validation", config.max_units))
    assert again.mean.perplexity == pytest.approx(result.best.mean.perplexity, rel=1e-5), (
        "the checkpoint is not the best"
    )


def test_warm_start_begins_with_the_text_body(
    dataset: Dataset, config: TrainConfig, tiny_opt: dict[str, Any], tmp_path: Path
) -> None:
    text = cold_start(tiny_opt, Vocabulary(70), seed=9)
    text.save_pretrained(tmp_path / "text")
    config = dataclasses.replace(
        config,
        architecture=None,
        init=str(tmp_path / "text"),
        num_steps=1,
        peak_lr=1e-9,
        final_lr=0.0,
        weight_decay=0.0,
    )
    train(config, dataset.uri, str(tmp_path / "run"))
    name = "model.decoder.layers.1.fc1.weight"
    torch.testing.assert_close(weights(tmp_path / "run", 1)[name], text.state_dict()[name])


def test_bfloat16_trains_and_keeps_float32_weights(dataset: Dataset, config: TrainConfig, tmp_path: Path) -> None:
    result = train(dataclasses.replace(config, precision="bfloat16"), dataset.uri, str(tmp_path))
    assert result.best is not None
    assert result.best.mean.perplexity < result.initial.mean.perplexity
    assert {tensor.dtype for tensor in weights(tmp_path, 12).values()} == {torch.float32}


def test_changed_settings_are_refused_by_name(dataset: Dataset, config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, num_steps=2, schedule="cosine", warmup_steps=1)
    train(config, dataset.uri, str(tmp_path))
    changed = dataclasses.replace(config, peak_lr=2e-2, batch_size=4, log_every=7)
    with pytest.raises(TwistError, match=r"batch_size was 8, is 4; peak_lr was 0\.01, is 0\.02\. Set them back"):
        train(changed, dataset.uri, str(tmp_path))


def test_other_shards_are_refused(
    dataset: Dataset,
    make_dataset: MakeDataset,
    markov_units: list[NDArray[np.uint16]],
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(config, num_steps=1)
    train(config, dataset.uri, str(tmp_path / "run"))
    other = make_dataset({"train": markov_units[:40], "validation": markov_units[48:]}, name="other")
    with pytest.raises(TwistError, match="trained with other shards"):
        train(config, other.uri, str(tmp_path / "run"))


def test_non_finite_loss_names_its_samples(dataset: Dataset, config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, peak_lr=1e30, final_lr=0.0, clip_norm=None)
    with pytest.raises(TwistError, match=r"step \d: not all is finite \(loss .*named in .*Lower train\.peak_lr"):
        train(config, dataset.uri, str(tmp_path))
    (path,) = tmp_path.glob("non-finite-*.json")
    content = json.loads(path.read_text())
    samples = UnitSamples(dataset, "train", config.max_units)
    batches = TrainingBatches(samples, Vocabulary.of_dataset(dataset), batch_size=8, num_micro_batches=1, seed=0)
    assert content["keys"] == batches.keys(content["step"] - 1)
    assert checkpoint_steps.steps(str(tmp_path)) == []


def test_events_tell_the_story(dataset: Dataset, config: TrainConfig, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    result = train(dataclasses.replace(config, num_steps=2), dataset.uri, str(tmp_path), events.append)
    assert isinstance(result, TrainResult)
    assert [(e["event"], e["step"]) for e in events] == [
        ("start", 0),
        ("validation", 0),
        ("step", 1),
        ("step", 2),
        ("validation", 2),
        ("checkpoint", 2),
    ]
    assert events[3].keys() >= {"loss", "lr", "grad_norm", "tokens", "tokens_per_s"}


def test_missing_splits_and_positions_are_refused(
    make_dataset: MakeDataset,
    markov_units: list[NDArray[np.uint16]],
    dataset: Dataset,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    no_validation = make_dataset({"train": markov_units}, name="no-validation")
    with pytest.raises(TwistError, match=r"validation split; pack again with a larger pack\.split\.validation"):
        train(config, no_validation.uri, str(tmp_path / "run"))
    no_train = make_dataset({"validation": markov_units}, name="no-train")
    with pytest.raises(TwistError, match="train split"):
        train(config, no_train.uri, str(tmp_path / "run"))
    with pytest.raises(TwistError, match="only 64 positions"):
        train(dataclasses.replace(config, max_units=65), dataset.uri, str(tmp_path / "run"))
    with pytest.raises(TwistError, match="no finished shards"):
        train(config, str(tmp_path / "nowhere"), str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "folder"}, "two ways to begin"),
        ({"architecture": None}, "nothing says which model to train"),
        ({"batch_size": 0}, "train.batch_size is 0; it must be at least 1"),
        ({"max_units": 1}, "train.max_units is 1"),
        ({"peak_lr": 0.0}, "train.peak_lr"),
        ({"final_lr": 1.0}, "train.final_lr is 1.0; it must be between 0 and peak_lr"),
        ({"betas": (0.9, 1.0)}, "train.betas"),
        ({"clip_norm": 0.0}, "train.clip_norm"),
        ({"schedule": "step"}, "train.schedule is 'step'"),
        ({"precision": "float16"}, "train.precision"),
        ({"device": "tpu"}, "train.device"),
        (
            {"bos_eos": True, "mixture": MixtureConfig(speech=1.0), "tokenizer": "lm"},
            "train.bos_eos is for units alone",
        ),
        ({"schedule": "cosine", "warmup_steps": 12}, "train.warmup_steps is 12; it must be below num_steps"),
    ],
)
def test_impossible_settings_are_refused(config: TrainConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        dataclasses.replace(config, **changes)
