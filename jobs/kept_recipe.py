"""The recipe that a run keeps in RUN/recipe.yaml: what its stages ran with, and what is said for those still to come.

A command takes from it each section that no recipe given by --config has. A stage writes its own sections into it once
more, options included, before it starts, and takes them back if it refuses them.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import yaml

from jobs.recipe import Recipe, kept_text, kept_uri, plain
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.printable import printable
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, PITCH, PREFERENCES, SEGMENTS, SHARDS, STYLE, TEXT, UNITS, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HEAD = "# What this run was made with, kept by its commands; they take from here what no --config names.\n"
STAGE_SECTIONS = {
    MANIFEST: ("corpora",),
    LANGUAGE: ("same_speech", "language"),
    SEGMENTS: ("segments",),
    WORDS: ("words",),
    CODEBOOK: ("codebook", "encoder"),
    UNITS: ("encoder",),
    PITCH: ("pitch",),
    TEXT: ("text",),
    STYLE: ("style",),
    SHARDS: ("pack", "encoder"),
    PREFERENCES: ("preferences",),
}
"""The sections of a recipe that change what a stage writes."""


@contextlib.contextmanager
def kept_for_stage(recipe: Recipe, name: str) -> Iterator[None]:
    """Keeps the recipe in the run while a stage runs, and from then on; not so if the stage refuses its settings."""
    from pipeline import stage

    def facts() -> object:
        try:
            return stage.read_facts(recipe.run, name)
        except (FileNotFoundError, TwistError):
            return None

    before, facts_before = kept_text(recipe.run), facts()
    keep(recipe, STAGE_SECTIONS[name])
    try:
        yield
    except TwistError:
        if facts() == facts_before:
            _put_back(recipe.run, before)
        raise


def keep(recipe: Recipe, sections: Sequence[str]) -> None:
    """Writes the recipe of a command that runs with `sections` into the run, and says on stderr what differs.

    Sections that other stages have begun with stay as they are: they tell what these stages ran with.

    Raises:
        TwistError: the run's folder cannot be written.
    """
    text = kept_text(recipe.run)
    before: dict[str, Any] = yaml.safe_load(text or "") or {}
    after = dict(before)
    begun = _begun_sections(recipe.run, before) - set(sections)
    for section, said in recipe.said.items():
        if section in begun:
            for line in _differences(before[section], said, section):
                note = f"note: {line} in the recipe given; the run's {section} stay as they are"
                print(printable(note), file=sys.stderr)
        else:
            after[section] = said
    after |= {section: plain(getattr(recipe, section)) for section in sections}
    new = HEAD + yaml.safe_dump(after, sort_keys=False, allow_unicode=True, width=120)
    if new == text:
        return
    changes = [line for name in after if name in before for line in _differences(before[name], after[name], name)]
    _write(recipe.run, new)
    for line in changes:
        print(printable(f"note: {line}, which {kept_uri(recipe.run)} keeps from now on"), file=sys.stderr)


def _begun_sections(run: str, kept: Mapping[str, Any]) -> set[str]:
    from pipeline.stage import STAGE_JSON

    begun = (names for stage, names in STAGE_SECTIONS.items() if storage.exists(storage.join(run, stage, STAGE_JSON)))
    return {name for names in begun for name in names if name in kept}


def _differences(before: Any, now: Any, path: str) -> list[str]:
    """Settings in both that differ; one that is only in one of them was, or is, left at its default."""
    if isinstance(before, dict) and isinstance(now, dict):
        shared = [name for name in now if name in before]
        return [line for name in shared for line in _differences(before[name], now[name], f"{path}.{name}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        if all(isinstance(one, dict) for one in [*before, *now]):
            return (
                [] if path == "corpora" else [line for n, (a, b) in pairs for line in _differences(a, b, f"{path}.{n}")]
            )
    return [] if before == now or path == "corpora" else [f"{path} was {before}, is {now}"]


def _put_back(run: str, text: str | None) -> None:
    if text is None:
        storage.delete(kept_uri(run))
    elif text != kept_text(run):
        _write(run, text)


def _write(run: str, text: str) -> None:
    try:
        storage.write_bytes(kept_uri(run), text.encode())
    except OSError as error:
        if storage.is_s3(run):
            raise
        raise TwistError(
            f"cannot write to {run}: {error.strerror or error}; mend that or choose another --run"
        ) from error
