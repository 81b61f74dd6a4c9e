"""Sentiments and emotions as the STSP benchmark names them, its file of predictions, and its score.

A line of a prediction:    {"id": "4792320029370491913", "pred": "negative", "generation": "..."}

A prediction is right if it is the sentiment (or the emotion) of the record of its id; records without a sentiment have
that of their emotion. Source: Nguyen et al. 2024 (SpiRit-LM), section 5.2 and appendix D, and its released benchmark.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.errors import TwistError, brief
from pipeline.files import foreign_json, storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Sentiment = Literal["negative", "neutral", "positive"]
SENTIMENTS: tuple[Sentiment, ...] = get_args(Sentiment)
Label = Literal["sentiment", "emotion"]
# Those of EMOV and of Expresso that the benchmark has. Others mean nothing here unless somebody says what.
SENTIMENT_OF: dict[str, Sentiment] = {
    "amused": "positive",
    "happy": "positive",
    "angry": "negative",
    "sad": "negative",
    "default": "neutral",
    "neutral": "neutral",
    "positive": "positive",
    "negative": "negative",
}


@dataclass(frozen=True)
class Prediction:
    """What a classifier found in what a model said: the id of the prompt's record, the label, and the text or file."""

    record_id: str
    label: str
    generation: str | None = None


@dataclass(frozen=True)
class Accuracy:
    """How many of `num_records` predictions are right."""

    num_right: int
    num_records: int

    @property
    def share(self) -> float:
        """The accuracy."""
        return self.num_right / self.num_records


def sentiment_of(record: Mapping[str, Any], where: str) -> Sentiment:
    """The sentiment of a record: its own, else that of its emotion.

    Raises:
        TwistError: it has neither, or one that the benchmark does not know.
    """
    told = record["sentiment"] if record.get("sentiment") is not None else record.get("emotion")
    found = SENTIMENT_OF.get(str(told).lower())
    if found is None:
        raise TwistError(
            f"{where} has the sentiment or emotion {brief(told)}; it must be one of {', '.join(SENTIMENT_OF)}"
        )
    return found


def score_predictions(references: str, predictions: str, label: Label = "sentiment") -> Accuracy:
    """The accuracy of a file of predictions on a manifest, as the benchmark's own scorer counts it.

    Args:
        references: The manifest, JSON lines with `id`, and `sentiment` or `emotion`.
        predictions: The predictions.
        label: What of a record the prediction must equal.

    Raises:
        TwistError: a file cannot be read, two records have one id, or the predictions are not those of the records,
            one each.
    """
    wanted: dict[str, str] = {}
    for where, record in json_lines(references):
        told = record.get(label)
        if told is None and label == "sentiment":
            told = sentiment_of(record, where)
        if "id" not in record or told is None:
            raise TwistError(f"{where} has no {'id' if 'id' not in record else label}, so that nothing can be scored")
        if (name := str(record["id"])) in wanted:
            raise TwistError(f"{where} has the id {brief(name)}, which an earlier record has")
        wanted[name] = str(told)
    found: dict[str, str] = {}
    for where, line in json_lines(predictions):
        if "id" not in line or "pred" not in line:
            raise TwistError(f'{where} is no prediction: {{"id": "...", "pred": "..."}}')
        if (name := str(line["id"])) in found:
            raise TwistError(f"{where} predicts {brief(name)} for the second time")
        found[name] = str(line["pred"])
    if not wanted:
        raise TwistError(f"{references} holds no records")
    if wanted.keys() != found.keys():
        odd = min(wanted.keys() ^ found.keys())
        lacks = predictions if odd in wanted else references
        raise TwistError(
            f"{references} has {len(wanted):,} records and {predictions} {len(found):,} predictions, which must be of "
            f"the same ids: {lacks} lacks {odd}"
        )
    return Accuracy(sum(found[name] == told for name, told in wanted.items()), len(wanted))


def write_predictions(uri: str, predictions: Iterable[Prediction]) -> None:
    """Writes predictions as the benchmark has them, a line each."""
    lines = []
    for one in predictions:
        told = {"id": one.record_id, "pred": one.label}
        if one.generation is not None:
            told["generation"] = one.generation
        lines.append(json.dumps(told) + "\n")
    storage.write_bytes(uri, "".join(lines).encode())


def json_lines(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a file of JSON lines, each with a name of its place for errors.

    Raises:
        TwistError: the file is missing or no text, or a line is no object.
    """
    try:
        lines = storage.read_bytes(uri).decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise TwistError(f"there is no file {uri}") from None
    except UnicodeDecodeError as error:
        raise TwistError(f"{uri} is no text in UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{uri}, line {number}"
        try:
            content = foreign_json.parse(line)
        except ValueError as error:
            raise TwistError(f"{where} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise TwistError(f"{where} is no JSON object")
        yield where, content
