"""Training on a mixture: resumed as if never stopped, validated by kind, and loadable by transformers alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.lm.mixture.config import KINDS, MixtureConfig, SpanConfig
from model.lm.mixture.data import SPEECH_BASELINE, TEXT_BASELINE
from model.lm.samples import TextSamples
from model.lm.text_tokenizer import fingerprint_of_tokenizer
from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from pipeline.text_shards import open_text
from tests.model.conftest import words_of, write_text_dataset, write_words_dataset
from tests.model.lm.test_text_lm import ROWS, write_text_lm


class World(NamedTuple):
    """A text LM, and shards of units with words and of text that fit it."""

    text_lm: str
    shards: str
    text: str


def make_world(folder: Path, tokenizer: str | None = None) -> World:
    text_lm = write_text_lm(folder / "text-lm", "llama")
    tokenizer = tokenizer or fingerprint_of_tokenizer(str(text_lm))
    rng = np.random.default_rng(0)

    def spoken(count: int) -> list[Any]:
        samples = []
        for _ in range(count):
            units = (np.cumsum(rng.integers(1, 20, 24)) % 20).astype(np.uint16)
            samples.append((units, words_of(units, 6, rng, ROWS)))
        return samples

    def written(count: int) -> list[Any]:
        return [rng.integers(0, 40, 30) for _ in range(count)]

    settings = {"vocab_size": ROWS, "tokenizer": tokenizer}
    write_words_dataset(str(folder / "shards"), {"train": spoken(40), "validation": spoken(8)}, **settings)  # type: ignore[arg-type]
    write_text_dataset(str(folder / "text"), {"train": written(40), "validation": written(8)}, **settings)  # type: ignore[arg-type]
    return World(str(text_lm), str(folder / "shards"), str(folder / "text"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def config_of(world: World, **settings: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "init": world.text_lm,
        "mixture": MixtureConfig(1, 1, 1, 1, 1),
        "spans": SpanConfig(text_words=(1, 3), speech_words=(1, 2)),
        "batch_size": 16,
        "max_units": 64,
        "num_steps": 8,
        "peak_lr": 3e-3,
        "final_lr": 3e-3,
        "warmup_steps": 0,
        "validate_every": 4,
        "checkpoint_every": 4,
        "log_every": 1,
        "device": "cpu",
    }
    return TrainConfig(**(defaults | settings))


def weights_of(checkpoints: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoints / f"{step:08d}" / "model.safetensors")


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoints = tmp_path_factory.mktemp("trained")
    train(config_of(world), world.shards, str(checkpoints), text=world.text)
    return checkpoints


def test_resumed_is_uninterrupted(world: World, trained: Path, tmp_path: Path) -> None:
    train(config_of(world, num_steps=4), world.shards, str(tmp_path), text=world.text)
    train(config_of(world), world.shards, str(tmp_path), text=world.text)
    resumed, whole = weights_of(tmp_path, 8), weights_of(trained, 8)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_every_kind_is_validated_and_learned(world: World, trained: Path, tmp_path: Path) -> None:
    result = train(config_of(world, num_steps=60, validate_every=60), world.shards, str(tmp_path), text=world.text)
    assert tuple(result.initial.corpora) == KINDS
    assert result.best is not None
    for kind in KINDS:
        assert result.best.corpora[kind].perplexity < 0.7 * result.initial.corpora[kind].perplexity, kind
    steps = [line for line in read_metrics(str(trained)) if "loss" in line]
    for kind in KINDS:
        shares = [step["share_" + kind] for step in steps]
        assert np.mean(shares) == pytest.approx(0.2, abs=0.06), kind


def test_targets_are_all_that_is_said_but_the_first(trained: Path) -> None:
    state = json.loads((trained / "00000008/trainer_state.json").read_text())
    targets = {kind: score["num_targets"] for kind, score in state["progress"]["initial"]["corpora"].items()}
    assert targets["speech"] == 8 * 23
    assert targets["text"] == 8 * 29
    assert targets["speech_text"] == targets["text_speech"], "the same samples, either way round"


def test_text_is_compared_with_the_text_lm(world: World, trained: Path) -> None:
    state = json.loads((trained / "00000008/trainer_state.json").read_text())
    told = state["progress"]["unigram"]["corpora"]
    assert set(told) == {SPEECH_BASELINE, TEXT_BASELINE}
    text_lm = AutoModelForCausalLM.from_pretrained(world.text_lm).eval()
    documents = TextSamples(open_text(world.text), "validation", 64)
    nats = []
    with torch.no_grad():
        for number in range(len(documents)):
            tokens = torch.tensor(documents[number].astype(np.int64))
            nats += F.cross_entropy(text_lm(tokens[None]).logits[0, :-1], tokens[1:], reduction="none").tolist()
    assert told[TEXT_BASELINE]["nats_per_unit"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert told[TEXT_BASELINE]["num_targets"] == len(nats)


def test_transformers_alone_loads_model_and_tokenizer(trained: Path) -> None:
    folder = trained / "00000008"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert len(tokenizer) == len(model.get_input_embeddings().weight) == ROWS + 2 + 20
    assert tokenizer.convert_tokens_to_ids(["[Text]", "[Speech]", "[Hu19]"]) == [ROWS, ROWS + 1, ROWS + 21]
    listed = json.loads((folder / "checksums.json").read_text())
    assert "tokenizer.json" in str(listed), "the tokenizer is held to its checksum, too"


def test_from_random_weights_with_a_tokenizer(world: World, tmp_path: Path) -> None:
    architecture = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1}
    architecture |= {"num_attention_heads": 2, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
    config = config_of(world, init=None, architecture=architecture, tokenizer=world.text_lm, num_steps=2)
    result = train(config, world.shards, str(tmp_path), text=world.text)
    assert set(result.baseline.corpora) == {SPEECH_BASELINE}, "there is no text LM to compare with"


def test_text_alone_and_speech_alone(world: World, tmp_path: Path) -> None:
    for kind in ("text", "speech"):
        config = config_of(world, mixture=MixtureConfig(**{kind: 1}), spans=None, num_steps=1)
        result = train(config, world.shards, str(tmp_path / kind), text=world.text)
        assert tuple(result.initial.corpora) == (kind,)


def test_text_that_is_missing(world: World, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"train\.mixture\.text needs text, and there is none"):
        train(config_of(world), world.shards, str(tmp_path))


def test_shards_of_another_tokenizer(tmp_path: Path) -> None:
    world = make_world(tmp_path / "other", tokenizer="sha256:0")
    with pytest.raises(TwistError, match="was made with another tokenizer"):
        train(config_of(world), world.shards, str(tmp_path / "checkpoints"), text=world.text)


def test_a_run_of_another_mixture_does_not_go_on(world: World, trained: Path) -> None:
    changed = config_of(world, mixture=MixtureConfig(1, 1, 1), num_steps=12)
    with pytest.raises(TwistError, match=r"mixture\.speech_text was 1"):
        train(changed, world.shards, str(trained), text=world.text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": None, "architecture": {"model_type": "opt"}}, "give train.tokenizer"),
        ({"tokenizer": "somewhere"}, "a text LM brings its own"),
        ({"mixture": None}, "train.spans is for interleaved samples"),
        ({"mixture": MixtureConfig(speech=1)}, "train.spans is for interleaved samples"),
        ({"mixture": None, "spans": None, "rope_theta": 1e5}, "train.rope_theta is for a mixture"),
        ({"rope_theta": -1.0}, "and above 0"),
    ],
)
def test_settings_that_do_not_fit(world: World, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        dataclasses.replace(config_of(world), **settings)


def test_a_mixture_of_nothing() -> None:
    with pytest.raises(TwistError, match="gives no kind a weight above 0"):
        MixtureConfig()
    with pytest.raises(TwistError, match="must be at least 0"):
        MixtureConfig(speech=1, text=-1)
