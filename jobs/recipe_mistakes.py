"""All that is wrong in a recipe, by line: keys, values that are of another type, and settings that make no sense."""

from __future__ import annotations

import re
from argparse import ArgumentError
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from jobs.plain_words import in_plain_words
from jobs.recipe import KEYS, instantiate, parse_text
from jobs.recipe_text import Mistake, compose_recipe, entries, line_of, mistaken_keys, settings_within
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REQUIRED = "the following arguments are required: "


def find_mistakes(text: str, where: str) -> list[Mistake]:
    """The mistakes in a recipe's text, by line.

    Args:
        text: YAML.
        where: The file's name, for errors.

    Raises:
        UsageError: the text is no YAML, or no recipe: no keys can be told apart.
    """
    root = compose_recipe(text, where)
    found = [*mistaken_keys(root, KEYS), *_mistaken_values(root, KEYS, "")]
    if not found:  # what sections require of each other
        try:
            said, _ = parse_text(text, where)
            instantiate({name: value for name, value in said.items() if name != "run"})
        except TwistError as error:
            found = [Mistake(1, str(error))]
    return sorted(set(found))


def _mistaken_values(node: yaml.MappingNode, kinds: Mapping[str, Any], path: str) -> Iterator[Mistake]:
    for key, value in entries(node):
        if isinstance(key, yaml.ScalarNode) and key.value in kinds:  # else a mistaken key
            yield from _within(key, value, kinds[key.value], f"{path}{key.value}")


def _within(key: yaml.Node, value: yaml.Node, hint: Any, name: str) -> Iterator[Mistake]:
    """The mistakes in a value that holds settings, or a list of such; of another value, none."""
    items, kind = settings_within(value, hint)
    for item in items if kind is not None else []:
        if isinstance(item, yaml.MappingNode):
            yield from _of_settings(item, kind, name, line_of(key) if len(items) == 1 else line_of(item))


def _of_settings(node: yaml.MappingNode, kind: Any, name: str, line: int) -> Iterator[Mistake]:
    """The mistakes in the settings of one config; the config itself is tried with those that are right."""
    hints = get_type_hints(kind)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, name)
    right: dict[str, Any] = {}
    lines: dict[str, int] = {}
    faulty: set[str] = set()
    is_whole = True
    for key, value in entries(node):
        if not isinstance(key, yaml.ScalarNode) or key.value not in hints:
            is_whole = False
            continue
        setting = {key.value: yaml.SafeLoader("").construct_object(value, deep=True)}
        mistakes = list(_within(key, value, hints[key.value], f"{name}.{key.value}"))
        has_mistaken_keys = _has_mistaken_keys(value, hints[key.value])  # told of the whole recipe at once
        if not mistakes and not has_mistaken_keys and (sentence := _type_mistake(parser, _nested(name, setting))):
            mistakes = [Mistake(line_of(key), sentence)]
        yield from mistakes
        if mistakes or has_mistaken_keys:
            faulty.add(key.value)
            is_whole = False
        else:
            right |= setting
            lines[key.value] = line_of(key)
    if name == "train" and not (right.get("init") or right.get("architecture")):
        return  # it may be left to the command line of `twist train`
    try:
        parser.instantiate(parser.parse_object(_nested(name, right)))
    except ArgumentError as error:
        if is_whole:
            yield Mistake(line, in_plain_words(error).replace(REQUIRED, "this is missing: "))
    except TwistError as error:
        words = re.findall(r"\w+", str(error))
        if faulty.intersection(words):
            return  # it may be said only because that setting was left out
        named = [lines[word] for word in words if word in lines]
        yield Mistake(named[0] if named else line, str(error))


def _has_mistaken_keys(node: yaml.Node, hint: Any) -> bool:
    items, kind = settings_within(node, hint)
    known = {} if kind is None else get_type_hints(kind)
    return bool(known) and any(mistaken_keys(item, known) for item in items if isinstance(item, yaml.MappingNode))


def _type_mistake(parser: ArgumentParser, setting: Any) -> str | None:
    """What is wrong with the type of a setting by itself."""
    try:
        parser.parse_object(setting, defaults=False)
    except (ArgumentError, TypeError) as error:
        sentence = in_plain_words(error)
        return None if sentence.startswith(REQUIRED) else sentence
    return None


def _nested(name: str, settings: dict[str, Any]) -> Any:
    """Settings as a parser takes them whose options begin with --NAME."""
    nested: Any = settings
    for part in reversed(name.split(".")):
        nested = {part: nested}
    return nested
