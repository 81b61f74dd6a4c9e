"""Prompts of text and speech, as a user writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import TwistError
from pipeline.speaking.prompts import PromptPart, parse_prompt, read_prompts

HEARD = PromptPart("speech", "a b.wav")


def test_marks_part_a_prompt() -> None:
    assert parse_prompt("[TEXT] the sky, [SPEECH] a b.wav [text] is [blue] ") == [
        PromptPart("text", "the sky,"),
        HEARD,
        PromptPart("text", "is [blue]"),
    ]
    assert parse_prompt("[SPEECH]a b.wav[SPEECH]a b.wav") == [HEARD, HEARD]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("the sky", "does not begin with"),
        ("the sky [SPEECH] a.wav", "does not begin with"),
        ("", "does not begin with"),
        ("[TEXT] the sky [SPEECH]", r"nothing behind a \[SPEECH\]"),
        ("[TEXT][SPEECH] a.wav", r"nothing behind a \[TEXT\]"),
    ],
)
def test_what_is_no_prompt(line: str, words: str) -> None:
    with pytest.raises(TwistError, match=words):
        parse_prompt(line)


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": [{"text": "see [SPEECH]\\n"}, {"audio": "a b.wav"}]}\n\n{"prompt": [{"audio": "a b.wav"}]}\n'
    )
    assert read_prompts(path) == [[PromptPart("text", "see [SPEECH]\n"), HEARD], [HEARD]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no prompts"),
        ("{", "line 1 is no JSON"),
        ('{"prompt": [{"text": "a"}]}\n["a"]', "line 2 has no `prompt`"),
        ('{"prompt": []}', "line 1 has no `prompt`"),
        ('{"prompt": [{"text": ""}]}', "no part of a prompt"),
        ('{"prompt": [{"text": "a", "audio": "b"}]}', "no part of a prompt"),
        ('{"prompt": [{"speech": "a.wav"}]}', "no part of a prompt"),
    ],
)
def test_what_is_no_file_of_prompts(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(TwistError, match=words):
        read_prompts(path)
    with pytest.raises(TwistError, match="cannot read"):
        read_prompts(tmp_path / "none.jsonl")
