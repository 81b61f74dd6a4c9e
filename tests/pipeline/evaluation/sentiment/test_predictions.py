"""STSP's file of predictions and its score."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.sentiment.predictions import Prediction, score_predictions, sentiment_of, write_predictions

if TYPE_CHECKING:
    from pathlib import Path

# As in the released manifest of EMOV: ids of 64 bits, emotions, no sentiments.
EMOTIONS = {
    4792320029370491913: "angry",
    -5682350483296949563: "neutral",
    -8754508989367964614: "amused",
    -9018665079841831624: "angry",
    1159246029716120600: "neutral",
}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_released_example_scores_40_percent_by_sentiment_and_100_by_emotion(tmp_path: Path) -> None:
    """Its predictions are the emotions; only `neutral` is the name of a sentiment too."""
    references = write(tmp_path / "ref.jsonl", [{"id": name, "emotion": told} for name, told in EMOTIONS.items()])
    predictions = write(tmp_path / "pred.jsonl", [{"id": str(name), "pred": told} for name, told in EMOTIONS.items()])
    assert score_predictions(references, predictions, "sentiment").share == 0.4
    assert score_predictions(references, predictions, "emotion").share == 1.0


def test_a_sentiment_of_its_own_comes_before_that_of_the_emotion(tmp_path: Path) -> None:
    references = write(tmp_path / "ref.jsonl", [{"id": 1, "emotion": "happy", "sentiment": "negative"}])
    predictions = write(tmp_path / "pred.jsonl", [{"id": "1", "pred": "negative"}])
    accuracy = score_predictions(references, predictions)
    assert (accuracy.num_right, accuracy.num_records) == (1, 1)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    references = write(tmp_path / "ref.jsonl", [{"id": name, "emotion": told} for name, told in EMOTIONS.items()])
    uri = str(tmp_path / "out" / "pred.jsonl")
    sentiments = [sentiment_of({"emotion": told}, "here") for told in EMOTIONS.values()]
    told = [
        Prediction(str(name), sentiment, "words" if name > 0 else None)
        for name, sentiment in zip(EMOTIONS, sentiments, strict=True)
    ]
    write_predictions(uri, told)
    assert score_predictions(references, uri).share == 1.0
    lines = [json.loads(line) for line in (tmp_path / "out" / "pred.jsonl").read_text().splitlines()]
    assert lines[0] == {"id": "4792320029370491913", "pred": "negative", "generation": "words"}
    assert lines[1] == {"id": "-5682350483296949563", "pred": "neutral"}


@pytest.mark.parametrize(
    ("references", "predictions", "words"),
    [
        ([{"id": 1, "emotion": "sad"}], [], "1 records and .* 0 predictions"),
        ([{"id": 1, "emotion": "sad"}], [{"id": "2", "pred": "negative"}], "must be of the same ids: .* lacks"),
        ([{"id": 1, "emotion": "sad"}], [{"id": "1", "pred": "x"}, {"id": 1, "pred": "x"}], "for the second time"),
        ([{"id": 1, "emotion": "sad"}, {"id": "1", "emotion": "happy"}], [], "line 2 has the id '1', which an earlier"),
        ([{"id": 1, "emotion": "bored"}], [{"id": "1", "pred": "x"}], "emotion 'bored'; it must be one of"),
        ([{"emotion": "sad"}], [{"id": "1", "pred": "x"}], "line 1 has no id"),
        ([{"id": 1}], [{"id": "1", "pred": "x"}], "emotion None"),
        ([{"id": 1, "emotion": "sad"}], [{"id": "1"}], "is no prediction"),
        ([{"id": 1, "emotion": "sad"}], [3], "is no JSON object"),
        ([], [], "holds no records"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    references: list[Any], predictions: list[Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TwistError, match=words):
        score_predictions(write(tmp_path / "ref.jsonl", references), write(tmp_path / "pred.jsonl", predictions))


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="there is no file"):
        score_predictions(str(tmp_path / "none.jsonl"), str(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(TwistError, match="line 1 is no JSON"):
        score_predictions(str(tmp_path / "bad.jsonl"), str(tmp_path / "bad.jsonl"))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TwistError, match="no text in UTF-8"):
        score_predictions(str(tmp_path / "bytes.jsonl"), str(tmp_path / "bad.jsonl"))
