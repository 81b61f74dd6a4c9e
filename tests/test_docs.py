"""The pages of the documentation: links lead somewhere, and recipes, commands and options that they name exist."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, but no heading is called that"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_that_are_named_exist(page: Path) -> None:
    for recipe in re.findall(r"recipes/[a-z0-9_./]+\.yaml", page.read_text()):
        assert (ROOT / recipe).is_file(), f"{page.name} names {recipe}, which is not there"


def test_the_readme_leads_to_every_page() -> None:
    reached: set[str] = set()
    to_read = ["README.md"]
    while to_read:
        page = to_read.pop()
        if page in reached:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", (ROOT / page).read_text())
        to_read += [str(((ROOT / page).parent / link).resolve().relative_to(ROOT)) for link in links]
    assert {str(page.relative_to(ROOT)) for page in PAGES} <= reached


@functools.cache
def options_of(command: str) -> set[str]:
    """The options that a command has, of one word or several."""
    found: set[str] = set()
    for asked in ("--help", "--help-all"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
            main([*command.split(), asked])
        found |= set(re.findall(r"^  (?:-\w, )?(--[\w.-]+)", printed.getvalue(), re.MULTILINE))
        found |= set(re.findall(r", (--[\w.-]+)", printed.getvalue()))
    return found


def commands_in(page: Path) -> list[list[str]]:
    """The words after `twist` of each line of a block that begins so, continued lines joined."""
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith(("twist ", "docker run"))]
    return [line[line.index("twist") + 1 :] for line in words if "twist" in line]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands_in(page):
        if words[:1] in (["X"], ["--version"], ["--help"]):
            continue
        command = next((name for name in COMMANDS if name.split() == words[: len(name.split())]), None)
        assert command, f"{page.name}: there is no command twist {' '.join(words)}"
        given = {word.partition("=")[0] for word in words if word.startswith("--") and "..." not in word}
        missing = given - options_of(" ".join([command, *kinds_in(words)])) - {"--help", "--help-all", "--language"}
        assert not missing, f"{page.name}: twist {command} has no {', '.join(sorted(missing))}"


def kinds_in(words: list[str]) -> list[str]:
    """The words after a command that decide which options there are."""
    if words[0] in ("make-speech", "make-benchmark"):
        return words[1:2]
    if words[:2] == ["evaluate", "mmos"]:
        return words[1:3]
    return words[1:2] if words[:2] in (["evaluate", "table"], ["evaluate", "plot"]) else []


def test_the_figures_for_gpus_are_what_their_formulas_give() -> None:
    page = (ROOT / "docs/hardware.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/hardware.md", "exec"), {})
    rows = printed.getvalue()
    assert rows.count("\n") == 6 and rows in page
