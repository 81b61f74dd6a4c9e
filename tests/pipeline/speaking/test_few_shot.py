"""Few-shot prompts: their forms, a fair draw of examples, and what of an answer is kept."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.errors import TwistError
from pipeline.speaking.few_shot import (
    Example,
    Task,
    answer_in_text,
    draw_shots,
    few_shot_prompt,
    read_examples,
)
from pipeline.speaking.prompts import PromptPart
from pipeline.speaking.text_and_speech import before_first

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = Example("cat.wav", "the cat", "animal"), Example("door.wav", "a red door", "thing")
SPOKEN, WRITTEN = PromptPart("speech", "dogs.wav"), PromptPart("text", "two dogs")


@pytest.mark.parametrize(
    ("task", "asked", "expected"),
    [
        (
            "asr",
            SPOKEN,
            "S cat.wav | T <START Transcript> the cat <END> | "
            "S door.wav | T <START Transcript> a red door <END> | S dogs.wav",
        ),
        (
            "tts",
            WRITTEN,
            "T the cat 'stop' | S cat.wav | S stop.wav | "
            "T a red door 'stop' | S door.wav | S stop.wav | T two dogs 'stop'",
        ),
        ("speech_intent", SPOKEN, "S cat.wav | T A:animal | S door.wav | T A:thing | S dogs.wav | T A:"),
        ("text_intent", WRITTEN, "T the cat A:animal\na red door A:thing\ntwo dogs A:"),
    ],
)
def test_prompts(task: Task, asked: PromptPart, expected: str) -> None:
    parts = few_shot_prompt(task, [ONE, TWO], asked, stop="stop.wav" if task == "tts" else None)
    assert " | ".join(f"{part.modality[0].upper()} {part.content}" for part in parts) == expected


@pytest.mark.parametrize(
    ("task", "generated", "answer"),
    [
        ("asr", " <START Transcript> hello there <END> [and more", "hello there"),
        ("asr", " hello there <END>", "hello there"),
        ("asr", " <START Transcript> hello", "hello"),
        ("asr", " <START Transcript> <END>", ""),
        ("asr", "", ""),
        ("speech_intent", "animal\nthe next", "animal"),
        ("text_intent", " thing", "thing"),
    ],
)
def test_answers_in_text(task: Task, generated: str, answer: str) -> None:
    assert answer_in_text(task, generated) == answer


def test_answers_in_units_end_at_the_first_stop() -> None:
    said, stop = np.array([1, 9, 2, 9, 8, 3, 9, 8]), np.array([9, 8])
    assert before_first(said, stop).tolist() == [1, 9, 2]
    assert before_first(said[:3], stop).tolist() == [1, 9, 2]
    assert before_first(said[:0], stop).tolist() == []


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_shots_are_balanced_seeded_and_never_what_is_asked(count: int) -> None:
    examples = [Example(f"{number}.wav", f"text {number}", "abc"[number % 3]) for number in range(15)]
    asked = PromptPart("speech", "0.wav")
    shots = draw_shots(examples, count, seed=3, asked=asked)
    assert len(set(shots)) == count
    assert examples[0] not in shots
    of_label = Counter(shot.label for shot in shots)
    assert max(of_label.values()) - min([*of_label.values(), *([0] * (3 - len(of_label)))]) <= 1
    assert draw_shots(examples, count, seed=3, asked=asked) == shots
    assert len({tuple(draw_shots(examples, count, seed=seed)) for seed in range(20)}) > 1


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(TwistError, match="of 2 of label 'thing' there are 1"):
        draw_shots([ONE, TWO, Example("b.wav", "b", "animal")], 4, seed=0)
    with pytest.raises(TwistError, match="there are none"):
        draw_shots([], 1, seed=0)


def test_examples_without_what_a_task_needs_are_refused() -> None:
    with pytest.raises(TwistError, match="'x' has no audio"):
        few_shot_prompt("asr", [Example("", "x")], SPOKEN)
    with pytest.raises(TwistError, match="'x' has no label"):
        few_shot_prompt("text_intent", [Example("", "x")], WRITTEN)
    with pytest.raises(TwistError, match="is needed for tts"):
        few_shot_prompt("tts", [ONE], WRITTEN)
    with pytest.raises(TwistError, match="and for nothing else"):
        few_shot_prompt("asr", [ONE], SPOKEN, stop="stop.wav")
    with pytest.raises(TwistError, match="asr is asked in speech, but the prompt is text"):
        few_shot_prompt("asr", [ONE], WRITTEN)


def test_examples_are_read(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    lines = [{"audio": "cat.wav", "text": "the cat", "label": "animal"}, {"text": "x"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_examples(path) == [ONE, Example("", "x")]


@pytest.mark.parametrize("line", ["[]", "{", '{"audio": "a.wav"}', '{"audio": 1, "text": "x"}', '{"text": 3}', "3"])
def test_other_lines_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text(line)
    with pytest.raises(TwistError, match="line 1 is no example"):
        read_examples(tmp_path / "examples.jsonl")
    with pytest.raises(TwistError, match="cannot read"):
        read_examples(tmp_path / "others.jsonl")
