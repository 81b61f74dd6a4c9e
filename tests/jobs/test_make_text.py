"""`twist make-text`: the same text and tokenizer each time, and every character comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from jobs.make_text import main

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ["--text.num_paragraphs", "40", "--text.num_tokens", "400"]


def test_the_demo_text_and_its_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two", "one"):
        assert main(["demo", str(tmp_path / name), *OPTIONS]) == 0
        assert "a tokenizer of 400 tokens" in capsys.readouterr().out
    files = ("text.txt", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    paragraphs = (tmp_path / "one/text.txt").read_text().splitlines()
    assert len(paragraphs) == len(set(paragraphs)) == 40
    assert main(["demo", str(tmp_path / "one"), "--text.num_paragraphs", "41"]) == 2
    assert "is another text" in capsys.readouterr().err


def test_a_tokenizer_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Where the wind blows, the wind goes.\n" * 20)
    folder = tmp_path / "tokenizer"
    options = ["--text.files", f"[{text}]", "--text.num_tokens", "290"]
    assert main(["tokenizer", str(folder), *options]) == 0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    written = "Où est-ce, the wind? 風\t!"
    tokens = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == f" {written}", "characters that it never saw come back, too"
    assert len(tokenizer(" the wind", add_special_tokens=False)["input_ids"]) == 2
    assert main(["tokenizer", str(folder), *options]) == 2
    assert "exists; name a folder that does not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name files with --text.files"),
        (["--text.files", "[nowhere.txt]"], "nowhere.txt does not exist"),
        (["--text.files", "[nowhere.txt]", "--text.num_tokens", "256"], "at least 257 tokens"),
    ],
)
def test_what_a_tokenizer_cannot_be_made_of(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", str(tmp_path / "tokenizer"), *options]) == 2
    assert message in capsys.readouterr().err
