from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.few_shot import (
    STOP_OF_BASE,
    Example,
    Task,
    answer_in_text,
    answer_in_units,
    draw_shots,
    few_shot_prompt,
    read_examples,
)

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO, ASKED = (
    Example((1, 2), "the cat", "animal"),
    Example((3,), "a red door", "thing"),
    Example((4, 5), "two dogs", "animal"),
)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "asr",
            [
                [1, 2],
                " <START Transcript> the cat <END>",
                [3],
                " <START Transcript> a red door <END>",
                [4, 5],
            ],
        ),
        ("tts", ["the cat 'stop'", [1, 2, 9, 8], "a red door 'stop'", [3, 9, 8], "two dogs 'stop'"]),
        ("speech_intent", [[1, 2], " A:animal", [3], " A:thing", [4, 5], " A:"]),
        ("text_intent", ["the cat A:animal\na red door A:thing\ntwo dogs A:"]),
    ],
)
def test_prompts(task: Task, expected: list[object]) -> None:
    assert few_shot_prompt(task, [ONE, TWO], ASKED, stop=(9, 8)) == expected


def test_the_stop_of_base_is_that_of_the_paper() -> None:
    assert "".join(f"[Hu{unit}]" for unit in STOP_OF_BASE).startswith("[Hu481][Hu149][Hu40][Hu48][Hu315]")
    assert len(STOP_OF_BASE) == 17


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
    said = np.array([1, 9, 2, 9, 8, 3, 9, 8], np.uint16)
    assert answer_in_units(said, (9, 8)).tolist() == [1, 9, 2]
    assert answer_in_units(said[:3], (9, 8)).tolist() == [1, 9, 2]
    assert answer_in_units(said[:0], (9, 8)).tolist() == []


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_shots_are_balanced_seeded_and_never_what_is_asked(count: int) -> None:
    examples = [Example((number,), f"text {number}", "abc"[number % 3]) for number in range(15)]
    shots = draw_shots(examples, count, seed=3, asked=examples[0])
    assert len(set(shots)) == count and examples[0] not in shots
    of_label = Counter(shot.label for shot in shots)
    assert max(of_label.values()) - min([*of_label.values(), *([0] * (3 - len(of_label)))]) <= 1
    assert draw_shots(examples, count, seed=3, asked=examples[0]) == shots
    assert len({tuple(draw_shots(examples, count, seed=seed)) for seed in range(20)}) > 1


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(TwistError, match="of 2 of label 'thing' there are 1"):
        draw_shots([ONE, TWO, ASKED], 4, seed=0)
    with pytest.raises(TwistError, match="there are none"):
        draw_shots([], 1, seed=0)


def test_examples_without_what_a_task_needs_are_refused() -> None:
    with pytest.raises(TwistError, match="'x' has no units"):
        few_shot_prompt("asr", [], Example((), "x"))
    with pytest.raises(TwistError, match="'x' has no label"):
        few_shot_prompt("text_intent", [Example((), "x")], ONE)
    with pytest.raises(TwistError, match='spoken word "stop"'):
        few_shot_prompt("tts", [ONE], TWO, stop=())


def test_examples_are_read(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    lines = [{"units": [1, 2], "text": "the cat", "label": "animal"}, {"text": "x"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_examples(str(path)) == [ONE, Example((), "x")]


@pytest.mark.parametrize("line", ["[]", "{", '{"units": [1]}', '{"units": [-1], "text": "x"}', '{"text": 3}'])
def test_other_lines_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text(line)
    with pytest.raises(TwistError, match="line 1"):
        read_examples(str(tmp_path / "examples.jsonl"))
