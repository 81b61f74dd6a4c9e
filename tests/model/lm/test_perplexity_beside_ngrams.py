"""What `evaluate perplexity` tells: the model beside n-gram models, on the same units."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from model.lm.ngram import NgramModel
from model.lm.samples import UnitSamples
from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary
from pipeline.evaluation import results
from pipeline.evaluation.perplexity import evaluate_perplexity, table


@pytest.fixture
def dataset(make_dataset, markov_units):
    return make_dataset(
        {"train": markov_units[:40], "validation": markov_units[40:]}, corpora=("librispeech", "voxpopuli")
    )


def test_ngrams_stand_beside_the_model(dataset, tiny_opt, tmp_path):
    cold_start(tiny_opt, Vocabulary.of_dataset(dataset), seed=0).save_pretrained(tmp_path / "lm")
    evaluation = evaluate_perplexity(str(tmp_path / "lm"), dataset.uri, "validation", 30, device="cpu")
    train, held_out = (UnitSamples(dataset, split, 30) for split in ("train", "validation"))
    model = NgramModel([train[index] for index in range(len(train))], 20)
    corpora = held_out.corpora()
    for order, report in evaluation.ngrams.items():
        for corpus, score in report.corpora.items():
            nats = np.concatenate(
                [model.nll(held_out[index])[order - 1] for index in range(len(held_out)) if corpora[index] == corpus]
            )
            assert score.perplexity == pytest.approx(np.exp(nats.mean()))
            assert score.num_targets == len(nats) == evaluation.model.corpora[corpus].num_targets
    assert evaluation.ngrams[2].mean.perplexity < evaluation.unigram.mean.perplexity < evaluation.model.mean.perplexity

    figures = results.as_json(evaluation.result)["figures"]
    assert figures["2-gram"]["value"] == pytest.approx(evaluation.ngrams[2].mean.perplexity)
    told = json.loads(json.dumps(evaluation.as_dict()))
    assert told["ngrams"]["5"] == dataclasses.asdict(evaluation.ngrams[5])
    head, *_ = table(evaluation).splitlines()
    assert head.split()[3:] == ["unigram", "2-gram", "3-gram", "4-gram", "5-gram", "units", "scored"]

    few = evaluate_perplexity(str(tmp_path / "lm"), dataset.uri, "validation", 30, ngram_units=50, device="cpu")
    assert few.ngrams[2] != evaluation.ngrams[2] and few.model == evaluation.model
