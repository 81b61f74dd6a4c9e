from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from model.lm.perplexity import (
    PerplexityReport,
    perplexity,
    report_of,
    sample_nll,
    unigram_perplexity,
    unit_counts,
)
from model.lm.samples import UnitSamples
from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.shards import Dataset
    from tests.model.conftest import MakeDataset


@pytest.fixture
def dataset(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> Dataset:
    splits = {"train": markov_units[:40], "validation": markov_units[40:]}
    return make_dataset(splits, corpora=("librispeech", "voxpopuli"))


def units(*values: int) -> NDArray[np.uint16]:
    return np.array(values, dtype=np.uint16)


def test_batched_equals_alone_and_transformers(dataset: Dataset, tiny_opt: dict[str, Any]) -> None:
    vocabulary = Vocabulary.of_dataset(dataset)
    model = cold_start(tiny_opt, vocabulary, seed=0)
    samples = UnitSamples(dataset, "validation", max_units=30)
    alone = perplexity(model, vocabulary, samples, batch_size=1)
    batched = perplexity(model, vocabulary, samples, batch_size=7)
    assert model.training, "the model must be left in the mode it was in"

    nll, num_targets = {"librispeech": 0.0, "voxpopuli": 0.0}, {"librispeech": 0, "voxpopuli": 0}
    model.eval()
    for index, corpus in enumerate(samples.corpora()):
        ids = torch.from_numpy(vocabulary.encode(samples[index]))[None]
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss.item()
        nll[corpus] += loss * (ids.shape[1] - 1)
        num_targets[corpus] += ids.shape[1] - 1
    for corpus, expected in nll.items():
        nats = expected / num_targets[corpus]
        for report in (alone, batched):
            assert report.corpora[corpus].num_targets == num_targets[corpus], "the first unit alone is not a target"
            assert report.corpora[corpus].nats_per_unit == pytest.approx(nats, abs=1e-5)
            assert report.corpora[corpus].perplexity == pytest.approx(math.exp(nats), rel=1e-5)
    assert batched.mean.perplexity == pytest.approx(np.mean([c.perplexity for c in batched.corpora.values()]))
    assert batched.mean.num_targets == sum(num_targets.values())


def test_unigram_by_hand(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"train": [units(0, 1, 0), units(1, 0)], "validation": [units(1, 0, 2)]}, codebook_size=3)
    counts = unit_counts(UnitSamples(dataset, "train", 8), Vocabulary.of_dataset(dataset))
    assert counts.tolist() == [3, 2, 0]
    report = unigram_perplexity(counts, UnitSamples(dataset, "validation", 8))
    # Targets 0 and 2, with one added to each count: 4/8 and 1/8.
    assert report.mean.num_targets == 2
    assert report.mean.nats_per_unit == pytest.approx((math.log(2) + math.log(8)) / 2)
    assert report.mean.perplexity == pytest.approx(4.0)


def test_model_and_unigram_score_the_same_targets(dataset: Dataset, tiny_opt: dict[str, Any]) -> None:
    vocabulary = Vocabulary.of_dataset(dataset)
    samples = UnitSamples(dataset, "validation", max_units=16)
    model = perplexity(cold_start(tiny_opt, vocabulary, seed=0), vocabulary, samples)
    unigram = unigram_perplexity(np.ones(vocabulary.codebook_size, dtype=np.int64), samples)
    assert {name: c.num_targets for name, c in model.corpora.items()} == {
        name: c.num_targets for name, c in unigram.corpora.items()
    }
    assert unigram.mean.perplexity == pytest.approx(20.0), "equal counts over 20 units have perplexity 20"
    assert 15 < model.mean.perplexity < 30, "an untrained model is near chance"


def test_corpora_count_alike_in_the_mean(make_dataset: MakeDataset) -> None:
    rare, common = units(*[1] * 40), units(0, 0)
    dataset = make_dataset({"validation": [rare, common]}, corpora=("rare", "common"), codebook_size=2)
    report = unigram_perplexity(np.array([98, 0]), UnitSamples(dataset, "validation", 64))
    assert report.corpora["rare"].perplexity == pytest.approx(100.0)
    assert report.corpora["common"].perplexity == pytest.approx(100 / 99)
    assert report.mean.perplexity == pytest.approx((100 + 100 / 99) / 2), "39 targets must not outweigh 1"


def test_report_survives_json(dataset: Dataset) -> None:
    report = unigram_perplexity(np.ones(20, dtype=np.int64), UnitSamples(dataset, "validation", 8))
    assert PerplexityReport.from_dict(asdict(report)) == report


def test_units_of_another_codebook_are_refused(
    make_dataset: MakeDataset, dataset: Dataset, tiny_opt: dict[str, Any]
) -> None:
    vocabulary = Vocabulary.of_dataset(dataset)
    other = make_dataset({"validation": [units(1, 2)]}, codebook="codebook-2", name="other")
    with pytest.raises(TwistError, match="another codebook"):
        perplexity(cold_start(tiny_opt, vocabulary, seed=0), vocabulary, UnitSamples(other, "validation", 8))


def test_rows_to_spare_change_nothing(dataset: Dataset, tiny_opt: dict[str, Any]) -> None:
    """A table padded to a multiple of 16, as a published model may have, scores as the same table without the rows."""
    stated = Vocabulary.of_dataset(dataset)
    padded = cold_start({**tiny_opt}, Vocabulary(31), seed=0)
    samples = UnitSamples(dataset, "validation", max_units=30)
    spare = Vocabulary(31, counts_rows=True)
    narrowed = sample_nll(padded, Vocabulary(20), samples)
    np.testing.assert_array_equal(sample_nll(padded, spare, samples), narrowed)
    np.testing.assert_array_equal(
        unit_counts(UnitSamples(dataset, "train", 8), spare.for_dataset(dataset)),
        unit_counts(UnitSamples(dataset, "train", 8), stated),
    )


def test_models_with_a_bos_are_given_it(dataset: Dataset, tiny_opt: dict[str, Any]) -> None:
    """The same units are scored as of other models, each given BOS and what comes before it."""
    plain = Vocabulary.of_dataset(dataset)
    vocabulary = Vocabulary(plain.codebook_size, offset=2, bos_id=1, codebook_fingerprint=plain.codebook_fingerprint)
    model = cold_start(tiny_opt, vocabulary, seed=0).eval()
    samples = UnitSamples(dataset, "validation", max_units=30)
    nll = sample_nll(model, vocabulary, samples, batch_size=7)
    for index in (0, 5):
        ids = torch.tensor([[1, *vocabulary.encode(samples[index])]])
        with torch.no_grad():
            log_probabilities = model(input_ids=ids).logits.log_softmax(-1)
        expected = -log_probabilities[0, 1:-1].gather(1, ids[0, 2:, None]).sum().item()
        assert nll[index] == pytest.approx(expected, rel=1e-5)
    assert report_of(nll, samples).mean.num_targets == int((samples.num_units - 1).sum())
