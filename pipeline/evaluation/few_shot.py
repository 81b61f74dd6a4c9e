"""Prompts that show a model of text and speech how a task is done, and then ask: ASR, TTS and intent classification.

    ASR      [SPEECH] units [TEXT] <START Transcript> words <END> ... [SPEECH] units [TEXT]
    TTS      [TEXT] words 'stop' [SPEECH] units STOP ... [TEXT] words 'stop' [SPEECH]
    intent   [SPEECH] units [TEXT] A:label ... [SPEECH] units [TEXT] A:          (with words in place of units for text)

The marks [TEXT] and [SPEECH] are written where the modality of parts changes, as everywhere. STOP is the spoken word
"stop", in units, which tells where a clip ends. Source: Nguyen et al. 2024 (SpiRit-LM), section 5.2 and appendix B; the
paper says neither which examples were shown nor how they were spaced.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import TwistError
from pipeline.files import foreign_json, storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Task = Literal["asr", "tts", "speech_intent", "text_intent"]
PromptPart = str | list[int]
BEGIN_TRANSCRIPT, END_TRANSCRIPT = " <START Transcript> ", " <END>"
ANSWER = " A:"
SPOKEN_STOP = " 'stop'"
# "stop" in the units of Meta's BASE tokenizer (footnote 17 of the paper).
STOP_OF_BASE = (481, 149, 40, 48, 315, 242, 428, 494, 75, 497, 188, 388, 109, 23, 338, 23, 481)


@dataclass(frozen=True)
class Example:
    """A clip with its words, and for classification its label.

    Attributes:
        units: The clip's units; empty where the task is of text alone.
        text: Its words.
        label: Its class; "" for ASR and TTS.
    """

    units: tuple[int, ...]
    text: str
    label: str = ""


def few_shot_prompt(
    task: Task, shots: Sequence[Example], asked: Example, stop: Sequence[int] = STOP_OF_BASE
) -> list[PromptPart]:
    """The parts of a prompt: text as a string, speech as units; what has one modality side by side is one part.

    Args:
        task: What is to be done.
        shots: The examples that are shown, in this order.
        asked: What is asked; its answer is not in the prompt.
        stop: The word "stop" in the model's units, for TTS.

    Raises:
        TwistError: an example has no units, words or label where the task needs them.
    """
    if task == "tts" and not stop:
        raise TwistError('few-shot TTS needs the units of the spoken word "stop", which tell where a clip ends')
    parts: list[PromptPart] = []
    for shot in shots:
        parts += [*_question(task, shot), _answer(task, shot, stop)]
    return _joined([*parts, *_question(task, asked), *([ANSWER] if task.endswith("intent") else [])])


def answer_in_text(task: Task, generated: str) -> str:
    """The answer in what a model wrote behind a prompt: the transcript up to its end, or the label's line."""
    if task == "asr":
        before, _, behind = generated.partition(BEGIN_TRANSCRIPT.strip())
        return (behind if behind or not before.strip() else before).partition(END_TRANSCRIPT.strip())[0].strip()
    return generated.strip().partition("\n")[0].strip()


def answer_in_units(generated: NDArray[np.uint16], stop: Sequence[int] = STOP_OF_BASE) -> NDArray[np.uint16]:
    """The units of a clip that a model spoke: those before the first STOP."""
    mark = np.asarray(stop, np.uint16)
    for start in range(len(generated) - len(mark) + 1):
        if np.array_equal(generated[start : start + len(mark)], mark):
            return generated[:start]
    return generated


def draw_shots(examples: Sequence[Example], count: int, seed: int, asked: Example | None = None) -> list[Example]:
    """`count` examples in random order, all labels as often as each other (or once more, where that cannot be).

    Args:
        examples: What can be shown.
        count: How many are shown.
        seed: The same gives the same examples.
        asked: Never shown.

    Raises:
        TwistError: there are too few, or too few of a label.
    """
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example != asked:
            by_label[example.label].append(example)
    labels = sorted(by_label)
    generator = random.Random(seed)
    generator.shuffle(labels)
    shots: list[Example] = []
    for number, label in enumerate(labels):
        wanted = count // len(labels) + (number < count % len(labels))
        if wanted > len(by_label[label]):
            of_label = f" of label {label!r}" if label else ""
            raise TwistError(
                f"{count} examples are to be shown, but of {wanted}{of_label} there are {len(by_label[label])}"
            )
        shots += generator.sample(by_label[label], wanted)
    if len(shots) < count:
        raise TwistError(f"{count} examples are to be shown, but there are none")
    generator.shuffle(shots)
    return shots


def read_examples(uri: str) -> list[Example]:
    """The examples in a JSONL file, a line each: {"units": [...], "text": "...", "label": "..."}.

    Units and label may be left out where the task does not need them.

    Raises:
        TwistError: the file is missing, or a line is no example.
    """
    try:
        lines = storage.read_bytes(uri).decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise TwistError(f"{uri} cannot be read as examples: {error}") from None
    return [_example(line, f"{uri}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _example(line: str, where: str) -> Example:
    try:
        content = foreign_json.parse(line)
        units, text, label = content.get("units", []), content["text"], content.get("label", "")
    except (ValueError, KeyError, AttributeError):
        raise TwistError(f'{where} is no example: {{"units": [...], "text": "...", "label": "..."}}') from None
    is_unit = [isinstance(unit, int) and not isinstance(unit, bool) and 0 <= unit < 2**16 for unit in units]
    if not all(is_unit) or not isinstance(text, str) or not isinstance(label, str):
        raise TwistError(
            f"{where}: units must be a list of numbers, text and label must be text, not {json.dumps(content)}"
        )
    return Example(tuple(units), text, label)


def _question(task: Task, example: Example) -> list[PromptPart]:
    if task in ("asr", "speech_intent"):
        return [_units(example)]
    return [example.text + (SPOKEN_STOP if task == "tts" else "")]


def _answer(task: Task, shot: Example, stop: Sequence[int]) -> PromptPart:
    if task == "tts":
        return [*_units(shot), *stop]
    if task == "asr":
        return f"{BEGIN_TRANSCRIPT}{shot.text}{END_TRANSCRIPT}"
    if not shot.label:
        raise TwistError(f"the example {shot.text!r} has no label to be shown")
    return f"{ANSWER}{shot.label}\n" if task == "text_intent" else f"{ANSWER}{shot.label}"


def _units(example: Example) -> list[int]:
    if not example.units:
        raise TwistError(f"the example {example.text!r} has no units, which this task needs")
    return list(example.units)


def _joined(parts: Sequence[PromptPart]) -> list[PromptPart]:
    joined: list[PromptPart] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(last, str) and isinstance(part, str):
            joined[-1] = f"{last}{part}"
        elif isinstance(last, list) and isinstance(part, list):
            joined[-1] = [*last, *part]
        else:
            joined.append(part)
    return joined
