"""The prompts of STSP: what is asked, and before it examples of prompts and what follows them.

    t2t    [TEXT] prompt answer <newline> prompt answer <newline> asked
    t2s    [TEXT] prompt [SPEECH] answer [TEXT] <newline> prompt [SPEECH] answer [TEXT] <newline> asked [SPEECH]
    s2t    [SPEECH] prompt [TEXT] answer <newline> [SPEECH] prompt [TEXT] answer <newline> [SPEECH] asked [TEXT]
    s2s    [SPEECH] prompt answer [TEXT] <newline> [SPEECH] prompt answer [TEXT] <newline> [SPEECH] asked

A newline ends each example, as in the released benchmark. That writes it bare behind units, and the mark of a modality
once more where it does not change; here, as in training, a mark stands before all that is of another modality, and
nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluation.sentiment.records import answered_in, asked_in
from pipeline.speaking.prompts import PromptPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.sentiment.records import Direction, Shot

# Names of the halves of an example's clip.
HALVES = ("first", "second")


def half_name(uri: str, half: str) -> str:
    """The name of a half of a clip; see HALVES."""
    return f"{half} half of {uri}"


def stsp_prompt(direction: Direction, shots: Sequence[Shot], asked: str) -> list[PromptPart]:
    """The parts of a prompt, texts that stand side by side as one; speech is named, as by `half_name`.

    Args:
        direction: Which modality is asked in which.
        shots: Examples to show.
        asked: The text, or the name of the recording.
    """
    question, answer = asked_in(direction), answered_in(direction)
    parts: list[PromptPart] = []
    for shot in shots:
        prompt = shot.prompt if question == "text" else half_name(shot.prompt, HALVES[0])
        generation = shot.generation if answer == "text" else half_name(shot.generation, HALVES[1])
        parts += [PromptPart(question, prompt), PromptPart(answer, generation), PromptPart("text", "\n")]
    return _joined([*parts, PromptPart(question, asked)])


def _joined(parts: Sequence[PromptPart]) -> list[PromptPart]:
    joined: list[PromptPart] = []
    for part in parts:
        if part.modality == "text" and joined and joined[-1].modality == "text":
            before = joined[-1].content
            blank = "" if before.endswith("\n") or part.content == "\n" else " "
            joined[-1] = PromptPart("text", f"{before}{blank}{part.content}")
        else:
            joined.append(part)
    return joined
