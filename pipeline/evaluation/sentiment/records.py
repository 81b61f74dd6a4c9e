"""The records of STSP, as its archive has them.

    FOLDER/manifest/<any>/<set>.<split>.jsonl            emov.test.jsonl, expresso_asr.test.jsonl, ...
    FOLDER/manifest/few_shot/{t2t,t2s,s2s,s2t}.jsonl     prompt, generation (texts, or clips that are halved), sentiment
    FOLDER/data/                                         audio
    FOLDER/model/{speech_classifier,text_classifier}     what tells the sentiment of what a model said

A record has an `id`, a `wav_path` and perhaps `asr` (the words), an `emotion` or `sentiment`, a `speaker`. Audio is
looked for in FOLDER, then in FOLDER/data.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import TwistError, brief
from pipeline.evaluation.sentiment.predictions import SENTIMENTS, Sentiment, json_lines, sentiment_of
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.lm.modality import Modality

Direction = Literal["t2t", "t2s", "s2s", "s2t"]
MODALITY_OF: dict[str, Modality] = {"t": "text", "s": "speech"}
MANIFESTS = "manifest"
FEW_SHOT = "few_shot"
# The set whose transcripts are the written prompts in the paper; of the others the audio is heard.
WRITTEN_SUFFIX = "_asr"


@dataclass(frozen=True)
class StspRecord:
    """A prompt of the benchmark.

    Attributes:
        record_id: Unique in its set.
        set_name: The set, such as emov.
        content: The text, or the URI of the recording.
        sentiment: Its sentiment.
        speaker: Who speaks; "" if that is not told.
    """

    record_id: str
    set_name: str
    content: str
    sentiment: Sentiment
    speaker: str

    @property
    def item_id(self) -> str:
        """Unique in the benchmark."""
        return f"{self.set_name}/{self.record_id}"


@dataclass(frozen=True)
class Shot:
    """An example of a prompt and what follows it: texts, or URIs of clips (the first half asks, the second answers)."""

    prompt: str
    generation: str
    sentiment: Sentiment


def asked_in(direction: Direction) -> Modality:
    """The modality of a direction's prompts."""
    return MODALITY_OF[direction[0]]


def answered_in(direction: Direction) -> Modality:
    """The modality of what a model says to them."""
    return MODALITY_OF[direction[-1]]


def read_records(
    folder: str, modality: Modality, split: str, sets: Sequence[str] | None = None
) -> dict[str, list[StspRecord]]:
    """The records whose texts, or recordings, are prompts, by set.

    Args:
        folder: The benchmark's.
        modality: Of the prompts.
        split: train, dev or test.
        sets: Their names; None: as in the paper, sets whose names end with `_asr` for text, all others for speech.

    Raises:
        TwistError: there are none, a set that is named is missing, or a record is no such record.
    """
    found = _manifests(folder, split)
    if sets is None:
        sets = [name for name in found if name.endswith(WRITTEN_SUFFIX) == (modality == "text")]
    has = f"it has {', '.join(found)}" if found else "it has no manifest of this split"
    if missing := [name for name in sets if name not in found]:
        raise TwistError(f"{folder}/{MANIFESTS} has no {missing[0]}.{split}.jsonl: {has}")
    if not sets:
        raise TwistError(f"{folder}/{MANIFESTS} has no set of {modality} in the split {split}: {has}")
    return {name: _read_set(folder, name, found[name], modality) for name in sets}


def read_shots(folder: str, direction: Direction) -> list[Shot]:
    """The examples of a direction.

    Raises:
        TwistError: there are none, or one is no such example.
    """
    uri = storage.join(folder, MANIFESTS, FEW_SHOT, f"{direction}.jsonl")
    shots = []
    for where, line in json_lines(uri):
        prompt, generation = (_text(line, name, where) for name in ("prompt", "generation"))
        if asked_in(direction) == "speech":
            prompt = _audio_uri(folder, prompt)
        if answered_in(direction) == "speech":
            generation = _audio_uri(folder, generation)
        shots.append(Shot(prompt, generation, sentiment_of(line, where)))
    return shots


def draw_shots(shots: Sequence[Shot], num_shots: int, seed: int) -> list[Shot]:
    """Examples to show, as many of each sentiment: the benchmark rounds up, so that 10 are 12; in order of sentiments.

    Raises:
        TwistError: there are too few of a sentiment.
    """
    by_sentiment: dict[str, list[Shot]] = defaultdict(list)
    for shot in shots:
        by_sentiment[shot.sentiment].append(shot)
    each = -(-num_shots // len(SENTIMENTS))
    generator = random.Random(seed)
    drawn = []
    for sentiment in SENTIMENTS:
        if len(by_sentiment[sentiment]) < each:
            raise TwistError(
                f"{num_shots} shots need {each} {sentiment} examples, but there are {len(by_sentiment[sentiment])}"
            )
        drawn += generator.sample(by_sentiment[sentiment], each)
    return drawn


def _manifests(folder: str, split: str) -> dict[str, str]:
    """The URI of each set's manifest of a split, by the set's name."""
    above = storage.join(folder, MANIFESTS)
    found = {}
    for name in sorted(storage.list_files(above, ".jsonl")):
        set_name, _, of_split = PurePosixPath(name).name.removesuffix(".jsonl").rpartition(".")
        if set_name and of_split == split and PurePosixPath(name).parts[0] != FEW_SHOT:
            found[set_name] = storage.join(above, name)
    return found


def _read_set(folder: str, name: str, uri: str, modality: Modality) -> list[StspRecord]:
    records: dict[str, StspRecord] = {}
    for where, line in json_lines(uri):
        if "id" not in line:
            raise TwistError(f"{where} has no id")
        record_id = str(line["id"])
        if record_id in records:
            raise TwistError(f"{where} has the id {brief(record_id)}, which an earlier line has")
        content = _text(line, "asr" if modality == "text" else "wav_path", where)
        if modality == "speech":
            content = _audio_uri(folder, content)
        speaker = str(line.get("speaker") or "")
        records[record_id] = StspRecord(record_id, name, content, sentiment_of(line, where), speaker)
    if not records:
        raise TwistError(f"{uri} holds no records")
    return list(records.values())


def _text(line: dict[str, Any], name: str, where: str) -> str:
    value = line.get(name)
    if not isinstance(value, str) or not value.strip():
        raise TwistError(f"{where} has no {name}")
    return value.strip()


def _audio_uri(folder: str, path: str) -> str:
    """Where a recording of the benchmark lies.

    Raises:
        TwistError: its path leaves the benchmark's folder.
    """
    parts = PurePosixPath(path).parts
    if ".." in parts or path.startswith("/") or ":" in path:
        raise TwistError(f"{folder} names the recording {brief(path)}, which does not lie in it")
    inside = storage.join(folder, path)
    return inside if parts[0] == "data" or storage.exists(inside) else storage.join(folder, "data", path)
