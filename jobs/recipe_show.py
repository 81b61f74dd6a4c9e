"""Prints every setting of a recipe, with its value and where that comes from.

`twist recipe show mine.yaml --segments.max_s 20`: the file's settings, those that --run keeps where the file lacks a
section, and those of the command line, as each command would take them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from jobs.command import command
from jobs.recipe import SECTIONS, Recipe, kept_text, kept_uri, plain, recipe_file
from jobs.recipe_text import compose_recipe, lines_of_all
from pipeline.printable import printable
from pipeline.text_table import in_columns

# Sections without defaults, which a run may lack.
ONLY_IF_SAID = tuple(field.name for field in dataclasses.fields(Recipe) if field.default is None)

Places = Mapping[str, str]
"""FILE:LINE of each setting that a file has, by its name with dots and indices."""


def work(arguments: Sequence[str], recipe: Recipe) -> None:
    """Prints a line per setting."""
    places, options = _places(recipe_file(arguments), recipe.run), _options(arguments)
    rows = [("run", recipe.run, _origin("run", places, options))] if recipe.run else []
    for section in SECTIONS:
        for name, value in _settings(section, plain(getattr(recipe, section))):
            rows.append((name, _shown(value), _origin(name, places, options)))
    for line in in_columns(rows, left_aligned=(0, 1, 2)):
        print(printable(line))


def _places(path: str | None, run: str) -> Places:
    """Where the settings in force are written: a section of the file replaces that of the run's recipe."""
    of_file = _places_in(Path(path).read_text("utf-8"), path) if path else {}
    kept = kept_text(run) if run else None
    sections = set(map(_section, of_file))
    of_run = {
        name: place
        for name, place in (_places_in(kept, kept_uri(run)) if kept else {}).items()
        if _section(name) not in sections
    }
    return {**of_run, **of_file}


def _section(name: str) -> str:
    return name.partition(".")[0].partition("[")[0]


def _places_in(text: str, where: str) -> Places:
    return {name: f"{where}:{line}" for name, line in lines_of_all(compose_recipe(text, where))}


def _settings(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each setting by its name; an empty list or mapping is one, and so is a list of values."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _settings(f"{name}.{key}", inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            yield from _settings(f"{name}[{index}]", inner)
    else:
        yield name, value


def _origin(name: str, places: Places, options: Sequence[str]) -> str:
    if any(name == option or name.startswith((f"{option}.", f"{option}[")) for option in options):
        return "command line"
    return places.get(name, "default")


def _options(arguments: Sequence[str]) -> list[str]:
    """The settings that a command line gives."""
    names = [word[2:].partition("=")[0] for word in arguments if word.startswith("--")]
    return ["language.languages" if name == "language" else name for name in names]


def _shown(value: Any) -> str:
    """A value as YAML has it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--config", *arguments]
    of_command_line = {option.partition(".")[0] for option in _options(arguments)}
    sections = [name for name in SECTIONS if name not in ONLY_IF_SAID or name in of_command_line]

    def show(recipe: Recipe, _: Namespace) -> None:
        work(arguments, recipe)

    return command("recipe show", __doc__, show, sections, needs_run=lambda _: False)(arguments)


if __name__ == "__main__":
    sys.exit(main())
