"""Questions with several answers: scored as plain transformers scores them, and what is no question."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import TwistError
from pipeline.evaluation.choices import choices, prompt_of, read_questions
from pipeline.evaluation.config import ChoicesConfig, EvaluationConfig
from tests.pipeline.evaluation.pairs.test_directions import checkpoint, subject_of

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.results import Result
    from pipeline.evaluation.subject import Subject

__all__ = ["checkpoint"]  # the fixture


def question(words: str, answer: int | str, about: str = "", num_choices: int = 3) -> dict[str, Any]:
    told = {"question": words, "choices": [f"{words} {place}" for place in range(num_choices)], "answer": answer}
    return told | ({"subject": about} if about else {})


QUESTIONS = [
    question("the fox", 0, "high_school_foxes"),
    question("the river", "b", "high_school_foxes", 4),
    question("the shore", 1, "shells"),
    question("the sea", 2, "shells"),
]
EXAMPLES = [question("one", 0, "shells"), question("two", 1, "high_school_foxes"), question("three", 2, "shells"),
            question("four", 2, "high_school_foxes"), question("five", 0, "shells")]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def with_config(subject: Subject, **settings: Any) -> Subject:
    lm, book = subject.lm, subject.codebook
    subject = replace(subject, config=EvaluationConfig(choices=ChoicesConfig(**settings)))
    vars(subject).update(lm=lm, codebook=book)
    return subject


def measure(folder: Path, checkpoint: Path, num_shots: int = 2, rows: list[dict[str, Any]] = QUESTIONS) -> Result:
    settings = {"questions": write(folder / "q.jsonl", rows), "examples": write(folder / "e.jsonl", EXAMPLES)}
    (result,) = choices(with_config(subject_of(checkpoint, {}), num_shots=num_shots, **settings))
    return result


@pytest.mark.parametrize("num_shots", [0, 2])
def test_the_likeliest_letter_is_the_answer(num_shots: int, checkpoint: Path, tmp_path: Path) -> None:
    result = measure(tmp_path, checkpoint, num_shots)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    right: dict[str, list[float]] = {}
    for row, told in zip(result.items.to_pylist(), QUESTIONS, strict=True):
        text = f"The following are multiple choice questions (with answers) about {told['subject'].replace('_', ' ')}."
        text += "\n\n"
        shown = [one for one in EXAMPLES if one["subject"] == told["subject"]][:num_shots]
        for one in [*shown, told]:
            text += f"{one['question']}\n"
            text += "".join(f"{letter}. {words}\n" for letter, words in zip("ABCD", one["choices"], strict=False))
            text += "Answer:" if one is told else f" Answer: {'ABCD'[one['answer']]}\n\n".lstrip()
        nats = []
        for letter in "ABCD"[: len(told["choices"])]:
            given = tokenizer(text, add_special_tokens=False)["input_ids"]
            whole = tokenizer(f"{text} {letter}", add_special_tokens=False)["input_ids"]
            assert whole[: len(given)] == given
            ids = torch.tensor([[tokenizer.convert_tokens_to_ids("[Text]"), *whole]])
            with torch.no_grad():
                shares = model(ids).logits[0, :-1].double().log_softmax(dim=1)
            of_tokens = shares.gather(1, ids[0, 1:, None])[:, 0]
            nats.append(float(of_tokens[len(given) :].sum()))
        assert row["nats"] == pytest.approx(nats, abs=1e-4)
        answer = told["answer"] if isinstance(told["answer"], int) else "abcd".index(told["answer"])
        assert row["right"] == float(int(np.argmax(nats)) == answer)
        assert row["shots"] == num_shots
        right.setdefault(told["subject"], []).append(row["right"])
    macro = np.mean([np.mean(of_subject) for of_subject in right.values()])
    assert result.headline.value == pytest.approx(macro)
    assert result.figures["all questions"].value == pytest.approx(np.mean(list(itertools.chain(*right.values()))))
    assert {about: result.figures[about].num_items for about in right} == dict.fromkeys(right, 2)


@pytest.mark.parametrize("room_for", [-1, 0, 1, 2])
def test_examples_give_way_where_there_is_no_room(room_for: int, checkpoint: Path, tmp_path: Path) -> None:
    settings = {"questions": write(tmp_path / "q.jsonl", QUESTIONS[2:]), "num_shots": 2}
    subject = with_config(subject_of(checkpoint, {}), examples=write(tmp_path / "e.jsonl", EXAMPLES), **settings)
    asked, shown = (read_questions(str(tmp_path / name)) for name in ("q.jsonl", "e.jsonl"))
    shown = [one for one in shown if one.subject == "shells"]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def num_tokens(question: Any, count: int) -> int:
        return 1 + len(tokenizer(f"{prompt_of(question, shown[:count])} A", add_special_tokens=False)["input_ids"])

    needed = max(num_tokens(one, max(room_for, 0)) for one in asked) - (room_for < 0) * 1000
    subject.lm.model.config.max_position_embeddings = needed
    if room_for < 0:
        with pytest.raises(TwistError, match=r"none of 2 items has a score: 1 is too_long"):
            list(choices(subject))
        return
    (result,) = choices(subject)
    assert [row["shots"] for row in result.items.to_pylist()] == [room_for, room_for]
    notes = ("2 questions had fewer examples: the model has no room for more.",)
    assert result.notes == (() if room_for == 2 else notes)


def test_a_prompt_begins_as_mmlus(tmp_path: Path) -> None:
    (asked,) = read_questions(write(tmp_path / "q.jsonl", [question("Why?", "C")]))
    (shown,) = read_questions(write(tmp_path / "e.jsonl", [question("Who?", 0, num_choices=2)]))
    assert prompt_of(asked, [shown]) == (
        "The following are multiple choice questions (with answers).\n\n"
        "Who?\nA. Who? 0\nB. Who? 1\nAnswer: A\n\n"
        "Why?\nA. Why? 0\nB. Why? 1\nC. Why? 2\nAnswer:"
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "a"}, "line 1 is no question"),
        ({"question": "a", "choices": ["b"], "answer": 0}, "has 1 choices"),
        ({"question": "a", "choices": ["b", "c"], "answer": 2}, "the answer 2 is none of 0 to 1"),
        ({"question": "a", "choices": ["b", "c"], "answer": "C"}, "the answer 'C' is none"),
        ({"question": "a", "choices": ["b", "c"], "answer": True}, "the answer True is none"),
    ],
)
def test_a_line_that_is_no_question_is_told(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=says):
        read_questions(write(tmp_path / "q.jsonl", [row]))


def test_what_is_missing_is_told(checkpoint: Path, tmp_path: Path) -> None:
    subject = subject_of(checkpoint, {})
    questions, examples = write(tmp_path / "q.jsonl", QUESTIONS), write(tmp_path / "e.jsonl", EXAMPLES)
    for settings, says in (
        ({}, "give --evaluation.choices.questions"),
        ({"questions": questions}, "give --evaluation.choices.examples"),
        ({"questions": questions, "examples": examples, "num_shots": 3}, "fewer than 3 examples of high_school_foxes"),
        ({"questions": str(tmp_path / "no.jsonl"), "num_shots": 0}, "there is no file of questions"),
    ):
        with pytest.raises(TwistError, match=says):
            list(choices(with_config(subject, **settings)))
