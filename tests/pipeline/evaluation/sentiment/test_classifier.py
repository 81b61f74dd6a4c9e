"""Classifiers of transformers by their folders: what they say equals what transformers says, and what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from pipeline.errors import TwistError
from pipeline.evaluation.sentiment.classifier import find_classifier
from pipeline.synthetic.config import MiniStspConfig
from pipeline.synthetic.mini_stsp import write_mini_stsp
from tests.classifier_models import EMOTIONS, SENTIMENTS, write_speech_classifier, write_text_classifier
from tests.progress import silently

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("I am glad.", "the box is here", "how sad, he died", "")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_classifier(tmp_path_factory.mktemp("models") / "text", TEXTS)


@pytest.fixture(scope="module")
def hearer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech_classifier(tmp_path_factory.mktemp("models") / "speech")


def test_texts_are_labelled_as_by_transformers(reader: Path) -> None:
    classifier = find_classifier(str(reader), "text", device="cpu")
    model, tokenizer = BertForSequenceClassification.from_pretrained(reader), AutoTokenizer.from_pretrained(reader)
    found = set()
    for text in (*TEXTS[:3], "sad glad died", "sad " * 500):
        ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :40]
        with torch.no_grad():
            expected = SENTIMENTS[int(model(input_ids=ids).logits[0].argmax())]
        assert classifier.label(text) == expected, text
        found.add(expected)
    assert len(found) > 1, "the test would pass with any label"


def test_speech_is_labelled_as_by_transformers(hearer: Path) -> None:
    classifier = find_classifier(str(hearer), "speech", device="cpu")
    model = Wav2Vec2ForSequenceClassification.from_pretrained(hearer)
    extract = Wav2Vec2FeatureExtractor.from_pretrained(hearer)
    generator = np.random.default_rng(0)
    found = set()
    for number in range(12):
        wav = generator.standard_normal(4000 + 3000 * number).astype(np.float32) * np.sin(
            np.arange(4000 + 3000 * number) / (2.0 + 10 * number)
        ).astype(np.float32)
        with torch.no_grad():
            expected = EMOTIONS[int(model(**extract(wav, sampling_rate=16_000, return_tensors="pt")).logits.argmax())]
        assert classifier.label(wav) == expected
        found.add(expected)
    assert len(found) > 1, "the test would pass with any label"
    assert classifier.label(np.zeros(10, np.float32)) in EMOTIONS, "what is too short for a frame gets silence"
    assert [classifier.sentiment(label) for label in EMOTIONS] == ["negative", "neutral", "positive", "negative"]


def test_labels_without_a_sentiment_must_be_told(tmp_path: Path) -> None:
    folder = write_text_classifier(tmp_path / "model", TEXTS, ("LABEL_0", "Joy"))
    with pytest.raises(TwistError, match=r"the label 'LABEL_0', of which nothing says"):
        find_classifier(str(folder), "text")
    classifier = find_classifier(str(folder), "text", {"label_0": "negative", "JOY": "positive"})
    assert classifier.sentiment("joy") == "positive"
    assert classifier.sentiment(classifier.label("glad")) in ("negative", "positive")


def test_other_folders_are_refused(reader: Path, hearer: Path, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="is no classifier of text: give a folder"):
        find_classifier(str(tmp_path), "text")
    with pytest.raises(TwistError, match="is no classifier of speech: it must be"):
        find_classifier(str(reader), "speech")
    with pytest.raises(TwistError, match="is no classifier of text: it must be"):
        find_classifier(str(hearer), "text")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(TwistError, match="is damaged"):
        find_classifier(str(tmp_path), "text")
    without = shutil.copytree(reader, tmp_path / "without")
    for path in without.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(TwistError, match="holds no tokenizer"):
        find_classifier(str(without), "text", device="cpu").label("x")


def test_a_classifier_that_was_trained_on_the_mini_set_tells_its_moods(tmp_path: Path) -> None:
    """So a model that wrote what the prompts say would score well: the texts have the moods that they are said to."""
    write_mini_stsp(tmp_path / "mini", MiniStspConfig(num_prompts=8, num_train=24, num_voices=1), silently)
    rows = {
        split: [json.loads(line) for line in (tmp_path / f"mini/manifest/mini/mini_asr.{split}.jsonl").open()]
        for split in ("train", "test")
    }
    folder = write_text_classifier(tmp_path / "model", [row["asr"] for row in rows["train"]])
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([row["asr"] for row in rows["train"]], return_tensors="pt", padding=True)
    wanted = torch.tensor([SENTIMENTS.index(row["sentiment"]) for row in rows["train"]])
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=wanted).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    classifier = find_classifier(str(folder), "text", device="cpu")
    is_right = [classifier.sentiment(classifier.label(row["asr"])) == row["sentiment"] for row in rows["test"]]
    assert np.mean(is_right) > 0.7, "chance is a third"
