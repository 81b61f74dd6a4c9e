"""--help is short; what it leaves out is found by section, or with --help-all."""

from __future__ import annotations

import pytest

from jobs.__main__ import main
from jobs.recipe import SECTIONS

SHORT = 60  # lines: about a screen


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", ["run", "filter", "segment", "tokenize", "pack", "train"])
def test_help_fits_a_screen_and_names_the_sections(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(capsys, command, option)
    assert len(text.splitlines()) <= SHORT, text
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert options[:2] == ["--run", "--config"], "the commonest options come first"
    sections = [word.strip("-.*") for word in options if word.endswith(".*")]
    assert sections and set(sections) <= set(SECTIONS)
    assert not [word for word in options if "." in word and not word.endswith(".*")]


def test_a_section_is_shown_alone(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "run", "--help", "pack")
    options = {line.split()[0] for line in text.splitlines() if line.startswith("  --")}
    assert {"--pack.seed", "--pack.split.validation", "--pack.duplicates.drop"} <= options
    assert all(option.startswith("--pack") for option in options)


def test_sections_and_own_options_are_all_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    def options(text: str) -> set[str]:
        return {line.split()[0].strip(",") for line in text.splitlines() if line.startswith("  -")}

    short = options(help_of(capsys, "segment", "--help"))
    sections = [word.strip("-.*") for word in short if word.endswith(".*")]
    of_sections = [options(help_of(capsys, "segment", "--help", section)) for section in sections]
    own = {word for word in short if not word.endswith(".*")}
    assert own.union(*of_sections) == options(help_of(capsys, "segment", "--help-all"))
