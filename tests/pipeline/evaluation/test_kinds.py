"""Perplexity of each kind of sequence as a result: as validation and as plain transformers have it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from model.lm.mixture.config import KINDS, MixtureConfig
from model.lm.mixture.data import sources_of_split
from model.lm.mixture.perplexity import perplexity_by_kind, text_lm_perplexity
from model.lm.samples import AlignedSamples, TextSamples
from model.lm.speech_lm import load_text_lm
from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.vocab import Vocabulary
from model.training.distributed import Ranks
from pipeline.errors import TwistError
from pipeline.evaluation import results
from pipeline.evaluation.kinds import TEXT_LM, perplexity_of_kinds
from pipeline.shards import open_dataset
from pipeline.text_shards import open_text
from tests.model.lm.mixture.test_training import World, config_of, make_world
from tests.model.lm.test_text_lm import ROWS

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.results import Result

VOCABULARY = Vocabulary(20, ROWS + 2, codebook_fingerprint="codebook-1", text_size=ROWS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("kinds")
    world = make_world(folder)
    model = extend_text_lm(world.text_lm, VOCABULARY, seed=0)
    for parameter in model.parameters():  # as if it had been trained
        parameter.data *= 2 if parameter.ndim > 1 else 1
    model.save_pretrained(folder / "checkpoint")
    text_tokenizer(world.text_lm, VOCABULARY).save_pretrained(folder / "checkpoint")
    return world


def checkpoint_of(world: World) -> str:
    return world.text_lm.replace("text-lm", "checkpoint")


@pytest.fixture(scope="module")
def result(world: World) -> Result:
    return perplexity_of_kinds(
        checkpoint_of(world), world.shards, world.text, config_of(world, max_units=40), "validation", device="cpu"
    )


def test_figures_are_those_of_validation(world: World, result: Result) -> None:
    """At 40 tokens interleaved samples of 6 words become several sequences, and pairs are left out."""
    config = config_of(world, max_units=40)
    dataset = open_dataset(world.shards)
    sources = sources_of_split(config, dataset, open_text(world.text), VOCABULARY, "validation")
    model = AutoModelForCausalLM.from_pretrained(checkpoint_of(world))
    expected = perplexity_by_kind(model, VOCABULARY, list(sources.values()), batch_size=3, ranks=Ranks())
    assert list(expected.corpora) == list(KINDS)
    for kind, told in expected.corpora.items():
        assert result.figures[kind].value == pytest.approx(told.perplexity, rel=1e-5)
        of_kind = [row for row in result.items.to_pylist() if row["kind"] == kind]
        assert sum(row["num_targets"] for row in of_kind) == told.num_targets
    low, high = result.figures["text"].low, result.figures["text"].high
    assert low is not None and high is not None and low < result.figures["text"].value < high
    assert result.figures["speech"].low is None, "all of it is by one speaker"
    assert result.headline.value == pytest.approx(expected.mean.perplexity, rel=1e-5)
    text_lm = load_text_lm(world.text_lm)
    told = text_lm_perplexity(text_lm, VOCABULARY, sources["text"], batch_size=5, ranks=Ranks())
    assert result.figures[TEXT_LM].value == pytest.approx(told.perplexity, rel=1e-5)
    assert result.figures["text"].value != pytest.approx(told.perplexity, rel=1e-2)


def test_figures_are_those_of_plain_transformers(world: World, result: Result) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint_of(world)).eval()
    text_lm = AutoModelForCausalLM.from_pretrained(world.text_lm).eval()

    def nats(lm: torch.nn.Module, ids: list[int], scored: list[int]) -> float:
        with torch.no_grad():
            shares = lm(torch.tensor([ids])).logits[0, :-1].double().log_softmax(dim=1)
        return -sum(float(shares[place - 1, ids[place]]) for place in scored)

    documents = TextSamples(open_text(world.text), "validation", 39)
    texts = [documents[i].tolist() for i in range(len(documents))]
    found = [nats(model, [ROWS, *text], list(range(2, len(text) + 1))) for text in texts]
    found_by_text_lm = [nats(text_lm, text, list(range(1, len(text)))) for text in texts]
    num_targets = sum(len(text) - 1 for text in texts)
    assert result.figures["text"].value == pytest.approx(math.exp(sum(found) / num_targets), rel=1e-4)
    assert result.figures[TEXT_LM].value == pytest.approx(math.exp(sum(found_by_text_lm) / num_targets), rel=1e-4)

    samples = AlignedSamples(open_dataset(world.shards), "validation")
    sums = np.zeros(2)
    for i in range(len(samples)):
        units, tokens = samples[i].units, samples[i].tokens.tolist()
        if len(units) + len(tokens) + 2 <= 40:
            ids = [ROWS + 1, *(int(unit) + ROWS + 2 for unit in units), ROWS, *tokens]
            scored = [place for place in range(2, len(ids)) if ids[place] != ROWS]
            sums += nats(model, ids, scored), len(scored)
    assert result.figures["speech_text"].value == pytest.approx(math.exp(sums[0] / sums[1]), rel=1e-4)


def test_it_is_a_result_like_others(result: Result, tmp_path: Path) -> None:
    told = results.read(results.write(str(tmp_path), result))
    assert told.benchmark == "perplexity-kinds"
    assert [measure.name for measure in told.measures] == ["mean of kinds", *KINDS, TEXT_LM]
    assert told.fingerprints["text_lm"] and told.fingerprints["text_lm"] != told.fingerprints["model"]


def test_a_mixture_without_text_has_no_text_lm_beside_it(world: World) -> None:
    config = config_of(world, mixture=MixtureConfig(speech=1, interleaved=1))
    result = perplexity_of_kinds(checkpoint_of(world), world.shards, "/nowhere", config, "validation", device="cpu")
    assert list(result.figures) == ["mean of kinds", "speech", "interleaved"]
    assert result.fingerprints["text_lm"] is None


def test_text_that_is_missing_is_told(world: World) -> None:
    with pytest.raises(TwistError, match=r"train\.mixture\.text needs text, and there is none"):
        perplexity_of_kinds(checkpoint_of(world), world.shards, "/nowhere", config_of(world), "validation")
