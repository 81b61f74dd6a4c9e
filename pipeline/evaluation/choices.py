"""Questions with several answers to choose from, as MMLU has them: what a model of text and speech still knows.

<questions>.jsonl, <examples>.jsonl    a line a question: {"question": "...", "choices": ["...", ...], "answer": 2,
                                       "subject": "..."}; the answer is the place of the right choice, from 0 on, or its
                                       letter; subject may be left out

A prompt is [TEXT] and MMLU's own words:

    The following are multiple choice questions (with answers) about high school physics.

    <question>
    A. <choice>
    ...
    Answer: B

    <the question that is asked>
    A. <choice>
    ...
    Answer:

The letter with the highest log-probability behind it is the model's answer; of a tie each has its share. The examples
are the first of the subject in their file. Where a prompt is too long for the model the last examples are left out, one
by one. Source: Hendrycks et al. 2021 (MMLU), the authors' code.
"""

from __future__ import annotations

import string
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model.lm.parts import encode
from model.lm.scoring import token_scores
from pipeline.corpora.tables import read_json_lines
from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.pairs.directions import require_text
from pipeline.evaluation.results import LeftOut
from pipeline.files import storage
from pipeline.speaking.text_and_speech import TextAndSpeechLM
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.results import Result
    from pipeline.evaluation.subject import Subject

LETTERS = string.ascii_uppercase
RULE = "MMLU: the likeliest letter behind the examples and the question, mean of the subjects' shares of right answers"


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        item_id: Its line.
        question: Its words.
        choices: The answers to choose from, 2 to 26.
        answer: The place of the right one.
        subject: What it is about; "" if nobody says.
    """

    item_id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str

    def text(self, *, is_answered: bool) -> str:
        """The question as it stands in a prompt."""
        lines = [self.question, *(f"{letter}. {one}" for letter, one in zip(LETTERS, self.choices, strict=False))]
        return "\n".join([*lines, "Answer:"]) + (f" {LETTERS[self.answer]}\n\n" if is_answered else "")


def choices(subject: Subject) -> Iterator[Result]:
    """Questions with several answers.

    Raises:
        TwistError: no questions are named, a line is none, a subject has too few examples, or the model knows no text.
    """
    config = subject.config.choices
    if config.questions is None:
        raise TwistError("choices needs its data: give --evaluation.choices.questions")
    if config.num_shots and config.examples is None:
        raise TwistError(
            "choices shows examples before each question: give --evaluation.choices.examples, or num_shots 0"
        )
    require_text(subject.lm, "choices")
    questions = read_questions(config.questions)
    shots = _shots(read_questions(config.examples) if config.examples and config.num_shots else [], config.num_shots)
    if config.num_shots and (lacking := sorted({one.subject for one in questions} - shots.keys())):
        raise TwistError(
            f"{config.examples} has fewer than {config.num_shots} examples of {lacking[0] or 'questions without one'}"
            f" as subject; lower evaluation.choices.num_shots"
        )
    table, left_out = _table(TextAndSpeechLM(subject.lm), questions, shots, config.num_shots)
    cut = sum(row < config.num_shots for row in table["shots"].to_pylist()) if len(table) else 0
    measures: list[Measure] = []
    if len(table):
        table, measures = _with_measures(table)
    yield subject.result(
        config.name,
        measures,
        table,
        rule=RULE,
        settings={"source": config.questions, "examples": config.examples, "num_shots": config.num_shots},
        data=digest(*(repr(one) for one in questions), *(repr(one) for of in shots.values() for one in of)),
        left_out=left_out,
        notes=[f"{cut:,} questions had fewer examples: the model has no room for more."] if cut else [],
    )


def read_questions(uri: str) -> list[Question]:
    """The questions of a JSONL file, local or s3://.

    Raises:
        TwistError: there is no such file, it holds none, or a line is none.
    """
    if not storage.exists(uri):
        raise TwistError(f"there is no file of questions {uri}")
    found = [_question(row, number, uri) for number, row in enumerate(read_json_lines(uri), start=1)]
    if not found:
        raise TwistError(f"{uri} holds no questions")
    return found


def _question(row: Mapping[str, Any], number: int, uri: str) -> Question:
    words, told, answer, about = (row.get(name) for name in ("question", "choices", "answer", "subject"))
    where = f"{uri}, line {number}"
    if not isinstance(words, str) or not isinstance(told, list) or not all(isinstance(one, str) for one in told):
        raise TwistError(f'{where} is no question: {{"question": "...", "choices": ["...", "..."], "answer": 0}}')
    if not 2 <= len(told) <= len(LETTERS):
        raise TwistError(f"{where} has {len(told)} choices; a question has 2 to {len(LETTERS)}")
    letters = LETTERS[: len(told)]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().upper() in letters:
        answer = letters.index(answer.strip().upper())
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(told):
        raise TwistError(f"{where}: the answer {answer!r} is none of 0 to {len(told) - 1} and none of {letters}")
    return Question(str(number), words.strip(), tuple(told), answer, str(about or ""))


def _shots(examples: Sequence[Question], num_shots: int) -> dict[str, list[Question]]:
    """The first examples of each subject that has enough."""
    by_subject: dict[str, list[Question]] = defaultdict(list)
    for example in examples:
        by_subject[example.subject].append(example)
    return {about: found[:num_shots] for about, found in by_subject.items() if len(found) >= num_shots}


def prompt_of(question: Question, shots: Sequence[Question]) -> str:
    """What stands before the answer."""
    about = f" about {question.subject.replace('_', ' ')}" if question.subject else ""
    head = f"The following are multiple choice questions (with answers){about}.\n\n"
    return head + "".join(one.text(is_answered=True) for one in shots) + question.text(is_answered=False)


def _table(
    model: TextAndSpeechLM, questions: Sequence[Question], shots: Mapping[str, Sequence[Question]], num_shots: int
) -> tuple[pa.Table, list[LeftOut]]:
    left_out: list[LeftOut] = []
    asked: list[tuple[Question, int, list[NDArray[np.int64]], list[int]]] = []
    positions = getattr(model.lm.model.config, "max_position_embeddings", None)
    for question in questions:
        for count in range(num_shots, -1, -1):
            prompt = prompt_of(question, shots.get(question.subject, [])[:count])
            sequences, lengths = [], []
            for letter in LETTERS[: len(question.choices)]:
                parts = model.text_parts([prompt, letter])
                sequences.append(np.array(encode(parts, model.lm.vocabulary), np.int64))
                lengths.append(len(parts[1].values))
            longest = max(map(len, sequences))
            if positions is None or longest <= positions:
                asked.append((question, count, sequences, lengths))
                break
        else:
            left_out.append(LeftOut(question.item_id, "too_long", f"{longest} tokens, but the model takes {positions}"))
    nats = _nats(model, [(sequences, lengths) for _, _, sequences, lengths in asked])
    rows = []
    for (question, count, _, _), of_choices in zip(asked, nats, strict=True):
        if not np.isfinite(of_choices).all():
            raise TwistError(f"{model.lm.path} gives question {question.item_id} a likelihood that is not finite")
        best = np.flatnonzero(of_choices == of_choices.max())
        rows.append(
            {
                "item_id": question.item_id,
                GROUP: question.item_id,
                "subject": question.subject or "questions",
                "shots": count,
                "nats": of_choices.tolist(),
                "answer": question.answer,
                "right": float(question.answer in best) / len(best),
            }
        )
    return pa.Table.from_pylist(rows), left_out


def _nats(
    model: TextAndSpeechLM, asked: Sequence[tuple[list[NDArray[np.int64]], list[int]]]
) -> list[NDArray[np.float64]]:
    """The log-probability of each choice's letter of each question."""
    # What the choices of a question begin with, the whole prompt, is computed once.
    nats = iter(token_scores(model.lm.model, [ids for sequences, _ in asked for ids in sequences]))
    return [np.array([float(next(nats)[-length:].sum()) for length in lengths]) for _, lengths in asked]


def _with_measures(table: pa.Table) -> tuple[pa.Table, list[Measure]]:
    """The mean of subjects, that of questions, and each subject's."""
    measures = [Measure("mean of subjects", "right", mean_over="subject"), Measure("all questions", "right")]
    subjects = table["subject"].to_pylist()
    for about in dict.fromkeys(subjects):
        column = f"subject {about}"
        table = table.append_column(column, pa.array([one == about for one in subjects]))
        measures.append(Measure(about, "right", where=column))
    return table, measures
