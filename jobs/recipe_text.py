"""Checks the text of a recipe before it is parsed: its shape, and that each key is a setting that there is.

So every mistake is told with its line, and a text that would take forever to expand ends at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from pipeline.errors import TwistError

# Recipes have some 200 values, nested four deep.
MOST_NODES = 100_000
DEEPEST = 20
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Lines = Mapping[str, int]
"""The line of each setting, by its name with dots and without indices of lists."""


class UsageError(TwistError):
    """A command line or a recipe that cannot be read."""


def check_recipe_text(text: str, where: str, sections: Mapping[str, Any]) -> Lines:
    """Finds mistakes in a recipe that need no look at its values; returns where its settings are.

    Args:
        text: YAML.
        where: The file's name, for errors.
        sections: The type of each key of a recipe.

    Raises:
        UsageError: it is no YAML, empty, no mapping, too deep or too large with its aliases expanded; or a key comes
            twice or does not exist.
    """
    try:
        _refuse_explosions(text, where)
        root = yaml.compose(text, Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{where}{line}: this is no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: this is no YAML: {' '.join(str(error).split())}") from error
    if root is None:
        raise UsageError(f"{where} is empty; a recipe has sections such as `pack:` (see recipes/demo.yaml)")
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{_at(where, root)}: a recipe has sections such as `pack:`, not {_shown(root)}")
    _refuse_repeated_keys(root, where)
    lines: dict[str, int] = {}
    _check_keys(root, sections, "", where, lines)
    return lines


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the known name that is most alike, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _refuse_explosions(text: str, where: str) -> None:
    """Counts nodes with aliases expanded, without expanding them."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the number of nodes before
    count = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor or "", MOST_NODES)  # a node within itself has no size yet
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        if len(open_nodes) > DEEPEST:
            raise UsageError(f"{_at(where, event)}: nested more than {DEEPEST} deep, which no recipe is")
        if count > MOST_NODES:
            raise UsageError(
                f"{_at(where, event)}: more than {MOST_NODES:,} values with aliases written out, which no recipe has"
            )


def _refuse_repeated_keys(node: yaml.Node, where: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, where)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{_at(where, key)}: a key is a word, not {_shown(key)}")
        before = first.setdefault(key.value, key)
        if before is not key:
            raise UsageError(f"{_at(where, key)}: {key.value} is already in line {_line(before)}; keep one of them")
        _refuse_repeated_keys(value, where)


def _check_keys(node: yaml.Node, known: Mapping[str, Any], path: str, where: str, lines: dict[str, int]) -> None:
    for key, value in _entries(node):
        name = f"{path}{key.value}"
        lines.setdefault(name, _line(key))
        if key.value not in known:
            what = f"section {name}" if not path else f"setting {name}"
            raise UsageError(f"{_at(where, key)}: there is no {what}{suggestion(key.value, known)}")
        items, kind = _settings_within(value, known[key.value])
        if kind is None:
            continue
        # The parser's errors do not say which of several items they are about.
        lines_within = lines if len(items) == 1 else {}
        for item in items:
            if isinstance(item, yaml.MappingNode):
                _check_keys(item, get_type_hints(kind), f"{name}.", where, lines_within)
            elif not _is_null(item):
                raise UsageError(f"{_at(where, item)}: {name} holds settings, not {_shown(item)}")


def _entries(node: yaml.Node) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of a mapping, those of merged ones (`<<: *other`) included."""
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:merge":
            yield key, value
        else:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _entries(merged)


def _settings_within(node: yaml.Node, kind: Any) -> tuple[list[yaml.Node], type | None]:
    """The nodes that hold settings of a dataclass, and that dataclass; None if this type of value has none."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind, *_) = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        if not dataclasses.is_dataclass(kind) or not isinstance(node, yaml.SequenceNode):
            return [], None
        return node.value, kind if isinstance(kind, type) else None
    return [node], kind if dataclasses.is_dataclass(kind) and isinstance(kind, type) else None


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value[:40])
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _at(where: str, place: yaml.Node | yaml.Event) -> str:
    return f"{where}:{_line(place)}"


def _line(place: yaml.Node | yaml.Event) -> int:
    assert place.start_mark is not None
    return place.start_mark.line + 1
