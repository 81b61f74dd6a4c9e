"""Contexts and endings in four directions: scores as plain transformers gives them, and what has no score."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.item_units import ItemUnits, UnitRow
from pipeline.evaluation.pairs.cloze import read_cloze
from pipeline.evaluation.pairs.directions import DIRECTIONS, directions
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.subject import Subject
from pipeline.speaking.speech_lm import load_lm
from pipeline.work.cluster import ClusterConfig
from tests.model.lm.test_spiritlm import write_release
from tests.model.lm.test_text_lm import ROWS, write_text_lm
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.evaluation.item_units import AudioItem

NUM_UNITS = 20
STORIES = [
    ("the quick brown fox jumps", "over the lazy dog", "on the other side of the river"),
    ("she sells sea shells", "by the sea shore", "it's a café"),
    ("one two three four", "five six", "don't pay"),
]


def spoken(text: str) -> np.ndarray:
    """Units for a text: some, always the same."""
    generator = np.random.default_rng(list(text.encode()))
    return (np.cumsum(generator.integers(1, NUM_UNITS, 4 + len(text))) % NUM_UNITS).astype(np.uint16)


def piece(name: str, text: str) -> dict[str, Any]:
    return {"text": text, "audio": f"{name}.wav"}


def write_pairs(folder: Path, leave_out: Callable[[dict[str, Any]], None] = lambda _: None) -> str:
    rows = []
    for number, (context, right, wrong) in enumerate(STORIES):
        row: dict[str, Any] = {"id": str(number), "context": piece(f"{number}c", context)}
        row |= {"right": piece(f"{number}r", right), "wrong": piece(f"{number}w", wrong)}
        leave_out(row)
        rows.append(row)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "pairs.jsonl")


def subject_of(checkpoint: Path, units: dict[str, np.ndarray]) -> Subject:
    subject = Subject(
        checkpoint=str(checkpoint),
        codebook_source="nowhere",
        run="",
        output=str(checkpoint),
        config=EvaluationConfig(),
        cluster=ClusterConfig(),
        device="cpu",
        report=silently,
    )

    def units_of(items: Sequence[AudioItem]) -> ItemUnits:
        found = {one.item_id: units.get(one.uri.rpartition("/")[2].removesuffix(".wav")) for one in items}
        rows = {name: UnitRow(of, np.ones(len(of), np.uint16), 1.0) for name, of in found.items() if of is not None}
        lost = tuple(LeftOut(name, "missing", "there is no such file") for name, of in found.items() if of is None)
        return ItemUnits(rows, lost, "units-1", "audio-1")

    # In place of audio and its tokenizer.
    vars(subject)["lm"] = load_lm(str(checkpoint), "cpu", "float32")
    vars(subject)["codebook"] = type("Book", (), {"fingerprint": "codebook-1"})()
    vars(subject).update(units=units_of, units_heard=units_of)
    return subject


def all_units() -> dict[str, np.ndarray]:
    return {
        f"{number}{letter}": spoken(text)
        for number, story in enumerate(STORIES)
        for letter, text in zip("crw", story, strict=True)
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of text and speech of random weights."""
    folder = tmp_path_factory.mktemp("directions")
    vocabulary = Vocabulary(NUM_UNITS, ROWS + 2, codebook_fingerprint="codebook-1", text_size=ROWS)
    text_lm = str(write_text_lm(folder / "text-lm", "llama"))
    model = extend_text_lm(text_lm, vocabulary, seed=0)
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.ndim > 1 else 1
    model.save_pretrained(folder / "checkpoint")
    text_tokenizer(text_lm, vocabulary).save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


@pytest.mark.parametrize("layout", ["ours", "Meta's"])
def test_scores_are_those_of_plain_transformers(layout: str, checkpoint: Path, tmp_path: Path) -> None:
    """By names of tokens alone: the tokenizer's own encoding of text, [Text], [Speech] and [Hu..], one by one."""
    folder = checkpoint if layout == "ours" else write_release(tmp_path / "release")
    units = all_units()
    result = directions(subject_of(folder, units), "cross", read_cloze(write_pairs(tmp_path)), {})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    start = [] if layout == "ours" else [tokenizer.bos_token_id]

    def score(number: int, letter: str, direction: str) -> tuple[float, float, float, int]:
        texts = dict(zip("crw", STORIES[number], strict=True))
        whole = tokenizer(f"{texts['c']} {texts[letter]}", add_special_tokens=False)["input_ids"]
        context = tokenizer(texts["c"], add_special_tokens=False)["input_ids"]
        assert whole[: len(context)] == context, "these texts part between tokens"
        heard = {one: [f"[Hu{unit}]" for unit in units[f"{number}{one}"]] for one in "cr" + "w"}
        before = heard["c"] if direction[0] == "S" else tokenizer.convert_ids_to_tokens(context)
        after = heard[letter] if direction[-1] == "S" else tokenizer.convert_ids_to_tokens(whole[len(context) :])
        if direction == "S->S" and before[-1] == after[0]:
            after = after[1:]
        names = {"S": "[Speech]", "T": "[Text]"}
        switch = [] if direction[0] == direction[-1] else [names[direction[-1]]]
        ids = start + tokenizer.convert_tokens_to_ids([names[direction[0]], *before, *switch, *after])
        with torch.no_grad():
            shares = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(dim=1)
        nats = shares.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
        of_ending = nats[-len(after) :]
        said = np.concatenate([nats[len(start) :][: len(before)], of_ending])
        return of_ending.mean(), of_ending.sum(), said.mean(), len(after)

    rows = {row["item_id"]: row for row in result.items.to_pylist()}
    assert len(rows) == 4 * len(STORIES)
    for number in range(len(STORIES)):
        for direction in DIRECTIONS:
            row = rows[f"{number} {direction}"]
            right, wrong = (score(number, letter, direction) for letter in "rw")
            for place, name in enumerate(("mean", "sum", "mean of all")):
                assert row[f"{name}_right"] == pytest.approx(right[place], abs=1e-4), (direction, name)
                assert row[f"{name}_wrong"] == pytest.approx(wrong[place], abs=1e-4), (direction, name)
                assert row[f"right_{name}"] == float(right[place] > wrong[place])
            assert (row["tokens_right"], row["tokens_wrong"]) == (right[3], wrong[3])
    for direction in DIRECTIONS:
        for name in ("mean", "sum", "mean of all"):
            points = [rows[f"{number} {direction}"][f"right_{name}"] for number in range(len(STORIES))]
            figure = result.figures[f"{direction}, {name}"]
            assert figure.value == pytest.approx(np.mean(points))
            assert figure.low is not None and figure.low <= figure.value <= (figure.high or 0)


def test_a_set_of_text_alone_has_one_direction(checkpoint: Path, tmp_path: Path) -> None:
    def no_audio(row: dict[str, Any]) -> None:
        for name in ("context", "right", "wrong"):
            del row[name]["audio"]

    result = directions(subject_of(checkpoint, {}), "cross", read_cloze(write_pairs(tmp_path, no_audio)), {})
    assert list(result.figures) == ["T->T, mean", "T->T, sum", "T->T, mean of all"]
    assert result.notes == ("No pair has what S->S, T->S, S->T needs.",)
    assert not result.left_out


def test_what_a_pair_lacks_leaves_its_directions_out(checkpoint: Path, tmp_path: Path) -> None:
    def lacks(row: dict[str, Any]) -> None:
        if row["id"] == "1":
            del row["right"]["text"]

    units = all_units()
    del units["0w"]
    units["2c"] = np.tile(np.array([1, 2], np.uint16), 2000)
    result = directions(subject_of(checkpoint, units), "cross", read_cloze(write_pairs(tmp_path, lacks)), {})
    assert {(one.item_id, one.reason) for one in result.left_out} == {
        ("0 S->S", "missing"), ("0 T->S", "missing"), ("1 T->T", "no_text"), ("1 S->T", "no_text"),
        ("2 S->S", "too_long"), ("2 S->T", "too_long"),
    }  # fmt: skip
    assert len(result.items) + len(result.left_out) == 4 * len(STORIES), "kept and left out are all"


def test_slamkits_folder(tmp_path: Path) -> None:
    for name in ("mutual", "correct", "incorrect"):
        (tmp_path / f"7_{name}.wav").write_bytes(b"")
        (tmp_path / f"7_{name}.txt").write_text(f"{name} words\n")
    (pair,) = read_cloze(str(tmp_path))
    assert [one.text for one in pair.pieces] == ["mutual words", "correct words", "incorrect words"]
    assert [one.audio.uri for one in pair.pieces if one.audio] == [
        str(tmp_path / f"7_{name}.wav") for name in ("mutual", "correct", "incorrect")
    ]
    (tmp_path / "7_correct.wav").unlink()
    with pytest.raises(TwistError, match=r"has 7_mutual.wav but no 7_correct.wav"):
        read_cloze(str(tmp_path))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, 'line 1 has no "id"'),
        ({"id": 1, "context": {"text": "a"}, "right": {"text": "b"}}, "null is no wrong|None is no wrong"),
        ({"id": 1, "context": {"text": ["a"]}}, "must be strings"),
        ({"id": 1, "context": {"audio": "a/../../b.wav"}}, r"line 1: the path 'a/../../b.wav' leaves the folder"),
        ({"id": 1, "context": {"audio": "a.wav", "start_s": 2, "end_s": 1}}, "no stretch of time"),
    ],
)
def test_a_line_that_is_no_pair_is_told(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    with pytest.raises(TwistError, match=says):
        read_cloze(str(tmp_path / "pairs.jsonl"))


def test_places_that_hold_no_pairs_are_told(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="there is no file of contexts"):
        read_cloze(str(tmp_path / "pairs.jsonl"))
    (tmp_path / "pairs.jsonl").write_text("\n")
    with pytest.raises(TwistError, match="holds no contexts with endings"):
        read_cloze(str(tmp_path / "pairs.jsonl"))
    with pytest.raises(TwistError, match=r"neither a .jsonl file nor a folder"):
        read_cloze(str(tmp_path))
