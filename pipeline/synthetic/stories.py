"""Stories of four sentences with a right and a wrong ending, as StoryCloze has them: read from a table, or our own.

    <folder>/sSC/<2k>_<story>.wav    the story with its ending; <2k+1>_<story>.wav with the wrong one
    <folder>/tSC/<2k>_<story>.wav    the same; <2k+1>_<story>.wav with the ending of another story
    beside each .wav its text in .txt; <folder>/stories.jsonl says which ending is whose
    <folder>/{sSC,tSC}/pairs.jsonl    where in the recordings context and endings are, and their texts

This is the layout of Spoken StoryCloze (slp-rl/SpokenStoryCloze). The four sentences are spoken once and their samples
serve all members of a pair, so that a pair differs in its ending alone.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from pipeline.corpora.tables import read_json_lines
from pipeline.errors import TwistError
from pipeline.files import csv_table, storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress

    Speak = Callable[[str], tuple[NDArray[np.int16], int]]

# Between sentences, as the published set has it.
PAUSE_S = 0.1
NAMES = ("sSC", "tSC")
# Contexts and endings, as `pipeline.evaluation.pairs.cloze` reads them.
PAIRS = "pairs.jsonl"
# Names of columns: those of the original release, and those of its copy on Hugging Face.
COLUMNS = (
    (
        "InputStoryid",
        *(f"InputSentence{number}" for number in range(1, 5)),
        "RandomFifthSentenceQuiz1",
        "RandomFifthSentenceQuiz2",
        "AnswerRightEnding",
    ),
    (
        "story_id",
        *(f"input_sentence_{number}" for number in range(1, 5)),
        "sentence_quiz1",
        "sentence_quiz2",
        "answer_right_ending",
    ),
)


@dataclass(frozen=True)
class Story:
    """Four sentences, the ending that fits and the one that does not."""

    story_id: str
    sentences: tuple[str, ...]
    right: str
    wrong: str


def read_stories(path: str) -> list[Story]:
    """Stories in a CSV, TSV or JSONL file.

    Raises:
        TwistError: there is no such file, it lacks columns, or a row cannot be used.
    """
    if path.lower().endswith((".csv", ".tsv")):
        rows: list[tuple[int, Mapping[str, object]]] = [*csv_table.read_rows(path)]
    elif storage.exists(path):
        rows = list(enumerate(read_json_lines(path), start=1))
    else:
        raise TwistError(f"there is no file of stories {path}")
    stories = [_story_of(row, f"{path}, {number}") for number, row in rows]
    if len({story.story_id for story in stories}) < len(stories):
        raise TwistError(f"{path} has two stories of one id")
    if not stories:
        raise TwistError(f"{path} holds no stories")
    return stories


def _story_of(row: Mapping[str, object], where: str) -> Story:
    columns = next((names for names in COLUMNS if set(names) <= row.keys()), None)
    if columns is None:
        raise TwistError(
            f"{where}: it has the columns {', '.join(map(str, row))}; a story has {', '.join(COLUMNS[0])}, or "
            f"{', '.join(COLUMNS[1])}"
        )
    story_id, *texts, answer = (str(row[name] or "").strip() for name in columns)
    if not all((story_id, *texts)) or answer not in ("1", "2"):
        raise TwistError(f"{where}: a sentence or the id is empty, or {columns[-1]} is neither 1 nor 2")
    first, second = texts[4:]
    right, wrong = (first, second) if answer == "1" else (second, first)
    return Story(story_id, tuple(texts[:4]), right, wrong)


def endings_of_others(stories: Sequence[Story], seed: int) -> list[Story]:
    """For each story another one, whose ending is taken: each ending once, and never one of the same text.

    Raises:
        TwistError: there are too few stories with endings of their own.
    """
    rng = random.Random(seed)
    order = list(range(len(stories)))
    for _ in range(1000):
        rng.shuffle(order)
        # Where two would swap places with themselves or their like, a few swaps mend it.
        for place in range(len(order)):
            for _ in range(100):
                if stories[order[place]].right != stories[place].right:
                    break
                other = rng.randrange(len(order))
                order[place], order[other] = order[other], order[place]
        if all(stories[one].right != story.right for one, story in zip(order, stories, strict=True)):
            return [stories[one] for one in order]
    raise TwistError("tSC takes the endings of other stories; too few of these stories end differently")


def write_storycloze(folder: Path, stories: Sequence[Story], speak: Speak, seed: int, report: ReportProgress) -> None:
    """Speaks stories as both benchmarks, into sSC and tSC of a folder, which must not be there yet.

    Args:
        folder: Where they are made; each appears under its name when it is whole.
        stories: The stories.
        speak: Text to samples [S] and their rate.
        seed: Of the endings for tSC.
        report: Called after every story.

    Raises:
        TwistError: there are too few stories for tSC, or the folder has such benchmarks already.
    """
    if there := [name for name in NAMES if (folder / name).exists()]:
        raise TwistError(f"{folder} holds {there[0]} already; name another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".storycloze.", dir=folder) as beside:
        _write(Path(beside), stories, speak, seed, report)
        for path in sorted(Path(beside).iterdir()):
            path.rename(folder / path.name)


def _write(folder: Path, stories: Sequence[Story], speak: Speak, seed: int, report: ReportProgress) -> None:
    others = endings_of_others(stories, seed)
    pairs: dict[str, list[dict[str, object]]] = {name: [] for name in NAMES}
    for name in NAMES:
        (folder / name).mkdir()
    rows = []
    for number, (story, other) in enumerate(zip(stories, others, strict=True)):
        context, rate_hz = _joined([speak(sentence) for sentence in story.sentences])
        for name, endings in (("sSC", (story.right, story.wrong)), ("tSC", (story.right, other.right))):
            pieces: list[dict[str, object]] = []
            for is_wrong, ending in enumerate(endings):
                path = folder / name / f"{2 * number + is_wrong}_{_file_name(story.story_id)}.wav"
                spoken, _ = _joined([(context, rate_hz), speak(ending)])
                soundfile.write(path, spoken, rate_hz)
                path.with_suffix(".txt").write_text(" ".join([*story.sentences, ending]) + "\n")
                starts_s = len(context) / rate_hz + PAUSE_S
                pieces.append({"text": ending, "audio": path.name, "start_s": round(starts_s, 6)})
            told = {"text": " ".join(story.sentences), "audio": pieces[0]["audio"], "start_s": 0.0}
            told["end_s"] = round(len(context) / rate_hz, 6)
            pairs[name].append({"id": story.story_id, "context": told, "right": pieces[0], "wrong": pieces[1]})
        rows.append({"number": number, "story_id": story.story_id, "topic_ending_of": other.story_id})
        report(number + 1, len(stories), "stories")
    for name, of_set in pairs.items():
        (folder / name / PAIRS).write_text("".join(json.dumps(pair) + "\n" for pair in of_set))
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _joined(spoken: Sequence[tuple[NDArray[np.int16], int]]) -> tuple[NDArray[np.int16], int]:
    rate_hz = spoken[0][1]
    pause = np.zeros(round(PAUSE_S * rate_hz), np.int16)
    pieces = [piece for wav, _ in spoken for piece in (pause, wav)]
    return np.concatenate(pieces[1:]), rate_hz


def _file_name(story_id: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in story_id)[:64]
