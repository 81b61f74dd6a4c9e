"""Prompts of text and speech, as a user writes them: on the command line, or in a JSONL file.

On the command line [TEXT] or [SPEECH] stands before each part: "[TEXT] a word said aloud: [SPEECH] word.wav". In a
file each line has the parts in a list: {"prompt": [{"text": "a word said aloud:"}, {"audio": "word.wav"}]}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError, brief
from pipeline.files import foreign_json

if TYPE_CHECKING:
    from pathlib import Path

    from model.lm.modality import Modality

MARK = re.compile(r"\[(TEXT|SPEECH)\]", re.IGNORECASE)
MODALITY_OF_KEY: dict[str, Modality] = {"text": "text", "audio": "speech"}


@dataclass(frozen=True)
class PromptPart:
    """What a user gives.

    Attributes:
        modality: text or speech.
        content: The text, or the path of a recording.
    """

    modality: Modality
    content: str


def parse_prompt(line: str) -> list[PromptPart]:
    """The parts of a prompt in which [TEXT] or [SPEECH] stands before each.

    Raises:
        TwistError: it begins with neither, or nothing stands behind one.
    """
    before, *marked = MARK.split(line)
    if before.strip() or not marked:
        raise TwistError(f"the prompt {brief(line)} does not begin with [TEXT] or [SPEECH], which say what comes next")
    parts = []
    for mark, content in zip(marked[::2], marked[1::2], strict=True):
        if not content.strip():
            raise TwistError(f"the prompt {brief(line)} has nothing behind a [{mark}]")
        parts.append(PromptPart("text" if mark.upper() == "TEXT" else "speech", content.strip()))
    return parts


def read_prompts(path: Path) -> list[list[PromptPart]]:
    """The prompts in a JSONL file, a line each; recordings are looked for from where the command runs.

    Raises:
        TwistError: the file cannot be read, has no prompts, or a line is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TwistError(f"cannot read {path}: {error}") from error
    prompts = [_of_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise TwistError(f"{path} holds no prompts")
    return prompts


def _of_line(line: str, where: str) -> list[PromptPart]:
    try:
        content = foreign_json.parse(line)
    except ValueError as error:
        raise TwistError(f"{where} is no JSON: {error}") from error
    parts = content.get("prompt") if isinstance(content, dict) else None
    if not isinstance(parts, list) or not parts:
        raise TwistError(f'{where} has no `prompt`: a list of {{"text": ...}} and {{"audio": ...}}')
    return [_part(part, where) for part in parts]


def _part(part: Any, where: str) -> PromptPart:
    if isinstance(part, dict) and len(part) == 1:
        ((key, content),) = part.items()
        if key in MODALITY_OF_KEY and isinstance(content, str) and content.strip():
            return PromptPart(MODALITY_OF_KEY[key], content)
    raise TwistError(f'{where}: {brief(part)} is no part of a prompt: {{"text": TEXT}} or {{"audio": FILE}}')
