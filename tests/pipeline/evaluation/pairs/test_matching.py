"""Matching of text and speech: scores as plain transformers gives them, and a fair draw of the other sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from model.lm.samples import AlignedSamples
from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.text_tokenizer import TextTokenizer
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.evaluation.config import EvaluationConfig, MatchingConfig
from pipeline.evaluation.pairs.matching import matching, neighbours_in_length
from pipeline.evaluation.subject import Subject
from pipeline.shards import Words
from pipeline.speaking.speech_lm import load_lm
from pipeline.work.cluster import ClusterConfig
from tests.model.conftest import words_of, write_words_dataset
from tests.model.lm.test_text_lm import ROWS, write_text_lm
from tests.progress import silently
from tests.text_models import TEXT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9, 40, 41])
def test_others_are_of_like_length_and_never_the_same(count: int) -> None:
    lengths = np.random.default_rng(count).integers(5, 500, count)
    others = neighbours_in_length(lengths, seed=3)
    assert sorted(others.tolist()) == list(range(count)), "each is another's once"
    assert not (others == np.arange(count)).any()
    rank = np.argsort(np.argsort(lengths, kind="stable"))
    assert np.abs(rank[others] - rank).max() < 5
    assert np.array_equal(others, neighbours_in_length(lengths, seed=3))


VOCABULARY = sorted({word for line in TEXT for word in line.split()})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 11 held-out samples, and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("matching")
    rng = np.random.default_rng(0)
    samples = []
    text_lm = str(write_text_lm(folder / "text-lm", "llama"))
    for _ in range(11):
        units = (np.cumsum(rng.integers(1, 20, int(rng.integers(10, 40)))) % 20).astype(np.uint16)
        samples.append((units, spelled(words_of(units, 4, rng, ROWS), text_lm, rng)))
    write_words_dataset(str(folder / "shards"), {"train": samples, "validation": samples}, vocab_size=ROWS)
    vocabulary = Vocabulary(20, ROWS + 2, codebook_fingerprint="codebook-1", text_size=ROWS)
    extend_text_lm(text_lm, vocabulary, seed=0).save_pretrained(folder / "checkpoint")
    text_tokenizer(text_lm, vocabulary).save_pretrained(folder / "checkpoint")
    return folder


def spelled(words: Words, text_lm: str, rng: np.random.Generator) -> Words:
    """Words that are some, with the tokens that a tokenizer gives them."""
    timed = tuple((str(rng.choice(VOCABULARY)), start_s, end_s) for _, start_s, end_s in words.timed)
    ((tokens, counts),) = TextTokenizer(text_lm).encode_words([[word for word, _, _ in timed]])
    table = words.table.copy()
    table[:, 0] = counts
    return Words(timed, tokens, table)


def subject_of(run: Path, checkpoint: Path | None = None, shards_of: Path | None = None) -> Subject:
    subject = Subject(
        checkpoint=str(checkpoint or run / "checkpoint"),
        codebook_source="nowhere",
        run=str(shards_of or run),
        output=str(run / "evaluation"),
        config=EvaluationConfig(),
        cluster=ClusterConfig(),
        device="cpu",
        report=silently,
    )
    # In place of the codebook, which no sample here was made with.
    vars(subject)["lm"] = load_lm(str(checkpoint or run / "checkpoint"), "cpu", "float32")
    vars(subject)["codebook"] = type("Book", (), {"fingerprint": "codebook-1"})()
    return subject


def test_scores_are_those_of_plain_transformers(run: Path) -> None:
    (result,) = matching(subject_of(run))
    subject = subject_of(run)
    model, vocabulary = subject.lm.model, subject.lm.vocabulary
    samples = AlignedSamples(_dataset(run), "validation")
    keys = [samples.key(i) for i in range(len(samples))]

    def nats(text: int | None, speech: int) -> float:
        units = [int(unit) + vocabulary.offset for unit in samples[speech].units]
        before = [] if text is None else [ROWS, *samples[text].tokens.tolist()]
        ids = torch.tensor([[*before, ROWS + 1, *units]])
        with torch.no_grad():
            shares = model(ids).logits[0, :-1].double().log_softmax(dim=1)
        return float(shares[-len(units) :].gather(1, torch.tensor(units)[:, None]).sum())

    right: list[list[float]] = []
    for row in result.items.to_pylist():
        i, j = keys.index(row["item_id"]), keys.index(row["other"])
        own, other = nats(i, i) - nats(None, i), nats(i, j) - nats(None, j)
        assert row["own"] == pytest.approx(own, abs=1e-4)
        assert row["other_speech"] == pytest.approx(other, abs=1e-4)
        assert row["other_text"] == pytest.approx(nats(j, i) - nats(None, i), abs=1e-4)
        per_unit = own / len(samples[i].units) > other / len(samples[j].units)
        right.append([own > other, per_unit, nats(i, i) > nats(j, i)])
    expected: list[Any] = np.mean(right, axis=0).tolist()
    found = [result.figures[name].value for name in ("speech, sum", "speech, mean", "text")]
    assert found == pytest.approx(expected)
    assert len(right) == 11


def _dataset(run: Path) -> Any:
    from pipeline.shards import open_dataset

    return open_dataset(str(run / "shards"))


def test_a_model_of_units_alone_has_no_text_to_match(run: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", **settings, **Vocabulary(20).as_config())
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "units")
    with pytest.raises(TwistError, match="is one of units alone"):
        next(iter(matching(subject_of(run, tmp_path / "units"))))


def test_samples_with_one_text_cannot_be_told_apart(run: Path, tmp_path: Path) -> None:
    samples = AlignedSamples(_dataset(run), "validation")
    rng = np.random.default_rng(0)
    same = []
    words: Words | None = None
    for number in (0, 1, 2):
        units = samples[number].units
        own = words_of(units, 4, rng, ROWS)
        words = words or spelled(own, str(run / "text-lm"), rng)
        table = np.concatenate([words.table[:, :1], own.table[:, 1:]], axis=1)
        same.append((units, replace(words, table=table)))
    write_words_dataset(str(tmp_path / "shards"), {"train": same, "validation": same}, vocab_size=ROWS)
    with pytest.raises(TwistError, match=r"none of 3 items has a score: .*same_text"):
        next(iter(matching(subject_of(run, shards_of=tmp_path))))


def test_text_of_another_tokenizer_of_the_same_size_is_refused(run: Path, tmp_path: Path) -> None:
    samples = AlignedSamples(_dataset(run), "validation")
    rng = np.random.default_rng(0)
    other = [(samples[i].units, words_of(samples[i].units, 4, rng, ROWS)) for i in range(4)]
    write_words_dataset(str(tmp_path / "shards"), {"train": other, "validation": other}, vocab_size=ROWS)
    with pytest.raises(TwistError, match="has text of another tokenizer than"):
        next(iter(matching(subject_of(run, shards_of=tmp_path))))


def test_as_many_samples_as_are_asked_for(run: Path) -> None:
    subject = subject_of(run)
    few = replace(subject, config=EvaluationConfig(matching=MatchingConfig(max_items=5)))
    vars(few).update({name: vars(subject)[name] for name in ("lm", "codebook")})
    (result,) = matching(few)
    (whole,) = matching(subject)
    own = {row["item_id"]: row["own"] for row in whole.items.to_pylist()}
    assert len(result.items) == 5
    assert set(result.items["other"].to_pylist()) == set(result.items["item_id"].to_pylist())
    for row in result.items.to_pylist():
        assert row["own"] == pytest.approx(own[row["item_id"]], abs=1e-4)
