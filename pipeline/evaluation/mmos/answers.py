"""Answers of raters: the CSV that the page downloads, or that of a batch on MTurk.

study,rater,clip,score                                                        the page's, a line a score
WorkerId,AssignmentStatus,...,Answer.study,Answer.ratings                     MTurk's, a line a task
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pipeline.corpora.tables import decode, number
from pipeline.errors import TwistError
from pipeline.evaluation.mmos.anchors import HIGHEST, LOWEST
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

OWN_COLUMNS = {"study", "rater", "clip", "score"}
MTURK_COLUMNS = {"WorkerId", "Answer.study", "Answer.ratings"}


class Answer(NamedTuple):
    """One score, and where it was read."""

    study: str
    rater: str
    clip: str
    score: float
    where: str


@dataclass
class Answers:
    """All answers to a study.

    Attributes:
        scores: By rater and clip.
        set_aside: How many scores do not count, by why.
        examples: The first of them, by why.
    """

    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    set_aside: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def put_aside(self, why: str, example: str) -> None:
        """Counts a score that does not count."""
        self.set_aside[why] += 1
        self.examples.setdefault(why, example)


def read_answers(
    uris: Iterable[str], study: str, clips: Collection[str] | Mapping[str, object], raters: Collection[str] | None
) -> Answers:
    """Reads the answers to a study. A rater's last score for a clip counts.

    Args:
        uris: CSV files of either kind.
        study: The study's fingerprint.
        clips: Its clips.
        raters: Who may have answered; None: anybody with a name.

    Raises:
        TwistError: a file is no CSV of answers, a score is none from 1 to 5 in halves, a rater has no name, all scores
            of a file are of another study, or none counts.
    """
    answers = Answers()
    for uri in uris:
        num_read = num_of_others = 0
        for answer in _read_file(uri, answers):
            num_read += 1
            if answer.study != study:
                num_of_others += 1
                answers.put_aside("of another study", f"{answer.study} at {answer.where}")
            elif raters is not None and answer.rater not in raters:
                answers.put_aside("of an unknown rater", f"{answer.rater} at {answer.where}")
            elif answer.clip not in clips:
                answers.put_aside("of an unknown clip", f"{answer.clip} at {answer.where}")
            else:
                if (answer.rater, answer.clip) in answers.scores:
                    answers.put_aside("given anew", f"{answer.clip} by {answer.rater}")
                answers.scores[answer.rater, answer.clip] = answer.score
        if num_read and num_read == num_of_others:
            raise TwistError(f"{uri} answers another study than {study}, the one of this folder")
    if not answers.scores:
        why = "; ".join(f"{count:,} {why}, e.g. {answers.examples[why]}" for why, count in answers.set_aside.items())
        raise TwistError(f"the answers hold no score that counts{f': {why}' if why else ''}")
    return answers


def _read_file(uri: str, answers: Answers) -> Iterator[Answer]:
    try:
        text = decode(storage.read_bytes(uri)).removeprefix("\ufeff")
    except FileNotFoundError:
        raise TwistError(f"there are no answers at {uri}") from None
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        yield from _read_rows(rows, uri, answers)
    except csv.Error as error:
        raise TwistError(f"{uri} is no CSV of answers: {error}") from error


def _read_rows(rows: csv.DictReader[str], uri: str, answers: Answers) -> Iterator[Answer]:
    columns = set(rows.fieldnames or ())
    if columns >= OWN_COLUMNS:
        read: Callable[[dict[str, str], str, Answers], Iterator[Answer]] = _read_own
    elif columns >= MTURK_COLUMNS:
        read = _read_mturk
    else:
        raise TwistError(
            f"{uri} holds no answers: its first line names neither {', '.join(sorted(OWN_COLUMNS))} nor "
            f"{', '.join(sorted(MTURK_COLUMNS))}"
        )
    for row in rows:
        yield from read(row, f"line {rows.line_num} of {uri}", answers)


def _read_own(row: dict[str, str], where: str, _: Answers) -> Iterator[Answer]:
    yield _answer(row["study"], row["rater"], row["clip"], row["score"], where)


def _read_mturk(row: dict[str, str], where: str, answers: Answers) -> Iterator[Answer]:
    for rating in (row["Answer.ratings"] or "").split():
        clip, _, score = rating.partition(":")
        if row.get("AssignmentStatus") == "Rejected":
            answers.put_aside("of a rejected task", where)
        else:
            yield _answer(row["Answer.study"], row["WorkerId"], clip, score, where)


def _answer(study: str | None, rater: str | None, clip: str | None, score: str | None, where: str) -> Answer:
    value = number(score)
    if value is None or not LOWEST <= value <= HIGHEST or value * 2 % 1:
        raise TwistError(f"{where}: {score!r} is no score from 1 to 5 in halves")
    if not rater or not rater.strip():
        raise TwistError(f"{where} does not name its rater")
    return Answer(study or "", rater.strip(), (clip or "").strip(), value, where)
