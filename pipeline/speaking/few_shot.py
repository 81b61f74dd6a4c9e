"""Prompts that show a model of text and speech how a task is done, and then ask: ASR, TTS and intent classification.

    asr              [SPEECH] clip [TEXT] <START Transcript> words <END> ... [SPEECH] clip [TEXT]
    tts              [TEXT] words 'stop' [SPEECH] clip STOP ... [TEXT] words 'stop' [SPEECH]
    speech_intent    [SPEECH] clip [TEXT] A:label ... [SPEECH] clip [TEXT] A:
    text_intent      [TEXT] words A:label ... words A:

STOP is a recording of the word "stop", which tells where a clip ends. Source: Nguyen et al. 2024 (SpiRit-LM), section
5.2 and appendix B; the paper says neither which examples were shown nor how they were spaced.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.errors import TwistError
from pipeline.files import foreign_json
from pipeline.speaking.prompts import PromptPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.lm.modality import Modality, OutputModality

Task = Literal["asr", "tts", "speech_intent", "text_intent"]
TASKS: tuple[Task, ...] = get_args(Task)
# What a task gives, and what it is asked with.
ANSWERED_IN: dict[Task, OutputModality] = {
    "asr": "text",
    "tts": "speech",
    "speech_intent": "text",
    "text_intent": "text",
}
ASKED_IN: dict[Task, Modality] = {"asr": "speech", "tts": "text", "speech_intent": "speech", "text_intent": "text"}
BEGIN_TRANSCRIPT, END_TRANSCRIPT = "<START Transcript>", "<END>"
ANSWER = "A:"
SPOKEN_STOP = "'stop'"


@dataclass(frozen=True)
class Example:
    """A clip with its words, and for classification its label.

    Attributes:
        audio: The path of the clip; "" where the task is of text alone.
        text: Its words.
        label: Its class; "" for ASR and TTS.
    """

    audio: str
    text: str
    label: str = ""


def few_shot_prompt(
    task: Task, shots: Sequence[Example], asked: PromptPart, stop: str | None = None
) -> list[PromptPart]:
    """The parts of a prompt; what has one modality side by side is one part, but for recordings.

    Args:
        task: What is to be done.
        shots: The examples that are shown, in this order.
        asked: What is asked.
        stop: The path of a recording of the word "stop", for TTS.

    Raises:
        TwistError: an example has no clip, words or label where the task needs them, or the task asks otherwise.
    """
    if asked.modality != ASKED_IN[task]:
        raise TwistError(f"{task} is asked in {ASKED_IN[task]}, but the prompt is {asked.modality}: {asked.content}")
    if (task == "tts") != (stop is not None):
        raise TwistError('--stop, a recording of the word "stop", is needed for tts, and for nothing else')
    parts: list[PromptPart] = []
    for shot in shots:
        parts += [_question(task, _clip(shot) if ASKED_IN[task] == "speech" else PromptPart("text", shot.text))]
        parts += _answer(task, shot, stop)
    parts.append(_question(task, asked))
    if task.endswith("intent"):
        parts.append(PromptPart("text", ANSWER))
    return _joined(parts)


def answer_in_text(task: Task, generated: str) -> str:
    """The answer in what a model wrote behind a prompt: the transcript up to its end, or the label's line."""
    if task == "asr":
        before, _, behind = generated.partition(BEGIN_TRANSCRIPT)
        return (behind if behind or not before.strip() else before).partition(END_TRANSCRIPT)[0].strip()
    return generated.strip().partition("\n")[0].strip()


def draw_shots(examples: Sequence[Example], count: int, seed: int, asked: PromptPart | None = None) -> list[Example]:
    """`count` examples in random order, all labels as often as each other (or once more, where that cannot be).

    Args:
        examples: What can be shown.
        count: How many are shown.
        seed: The same gives the same examples.
        asked: An example of which is never shown.

    Raises:
        TwistError: there are too few, or too few of a label.
    """
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if asked is None or asked.content not in (example.audio, example.text):
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


def read_examples(path: Path) -> list[Example]:
    """The examples in a JSONL file, a line each: {"audio": "clip.wav", "text": "...", "label": "..."}.

    Recordings are looked for from where the command runs. Audio and label may be left out where the task does not need
    them.

    Raises:
        TwistError: the file is missing, or a line is no example.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TwistError(f"cannot read {path}: {error}") from error
    return [_example(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _example(line: str, where: str) -> Example:
    try:
        content: Any = foreign_json.parse(line)
        told = (content.get("audio", ""), content["text"], content.get("label", ""))
    except (ValueError, KeyError, AttributeError, TypeError):
        told = (None, None, None)
    if not all(isinstance(value, str) for value in told):
        raise TwistError(f'{where} is no example: {{"audio": "clip.wav", "text": "...", "label": "..."}}')
    return Example(*told)


def _question(task: Task, asked: PromptPart) -> PromptPart:
    return PromptPart("text", f"{asked.content} {SPOKEN_STOP}") if task == "tts" else asked


def _answer(task: Task, shot: Example, stop: str | None) -> list[PromptPart]:
    if task == "tts":
        assert stop is not None
        return [_clip(shot), PromptPart("speech", stop)]
    if task == "asr":
        return [PromptPart("text", f"{BEGIN_TRANSCRIPT} {shot.text} {END_TRANSCRIPT}")]
    if not shot.label:
        raise TwistError(f"the example {shot.text!r} has no label to be shown")
    return [PromptPart("text", f"{ANSWER}{shot.label}" + ("\n" if task == "text_intent" else ""))]


def _clip(shot: Example) -> PromptPart:
    if not shot.audio:
        raise TwistError(f"the example {shot.text!r} has no audio, which this task needs")
    return PromptPart("speech", shot.audio)


def _joined(parts: Sequence[PromptPart]) -> list[PromptPart]:
    joined: list[PromptPart] = []
    for part in parts:
        if joined and joined[-1].modality == part.modality == "text":
            before = joined[-1].content
            blank = "" if before.endswith("\n") else " "
            joined[-1] = PromptPart("text", f"{before}{blank}{part.content}")
        else:
            joined.append(part)
    return joined
