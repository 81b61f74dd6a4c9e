"""Checks the text of a recipe before it is parsed: its shape, and that each key is a setting that there is.

So every mistake is told with its line, and a text that would take forever to expand ends at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

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


class Mistake(NamedTuple):
    """What is wrong in a recipe, in a sentence, and the line of it."""

    line: int
    sentence: str


def check_recipe_text(text: str, where: str, sections: Mapping[str, Any]) -> Lines:
    """Finds mistakes in a recipe that need no look at its values; returns where its settings are.

    Args:
        text: YAML.
        where: The file's name, for errors.
        sections: The type of each key of a recipe.

    Raises:
        UsageError: it is no YAML, empty, no mapping, too deep or too large with its aliases expanded; or a key comes
            twice or does not exist. The first of several is told in full.
    """
    root = compose_recipe(text, where)
    if mistakes := mistaken_keys(root, sections):
        line, sentence = mistakes[0]
        others = f" ({len(mistakes) - 1} more: twist recipe check {where})" if len(mistakes) > 1 else ""
        raise UsageError(f"{where}:{line}: {sentence}{others}")
    lines: dict[str, int] = {}
    _find_lines(root, sections, "", lines)
    return lines


def compose_recipe(text: str, where: str) -> yaml.MappingNode:
    """The nodes of a recipe's YAML, which tell where each value is.

    Raises:
        UsageError: it is no YAML, empty, no mapping, too deep or too large with its aliases expanded.
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
    return root


def mistaken_keys(root: yaml.MappingNode, sections: Mapping[str, Any]) -> list[Mistake]:
    """Keys that come twice or do not exist, and single values where settings belong, by line."""
    return sorted({*_repeated_keys(root), *_unknown_keys(root, sections, "")})


def lines_of_all(node: yaml.Node, name: str = "") -> Iterator[tuple[str, int]]:
    """Each key of a recipe, and each item of its lists, with its line; names are like `corpora[0].root`."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{name}[{index}]", line_of(item)
            yield from lines_of_all(item, f"{name}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        for key, value in entries(node):
            inner = f"{name}.{key.value}" if name else key.value
            yield inner, line_of(key)
            yield from lines_of_all(value, inner)


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the known name that is most alike, or whose last part is; or nothing."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if not close:  # --minutes for --speech.minutes
        of_last = {one.rpartition(".")[2]: one for one in reversed(names) if "." in one}
        close = [of_last[last] for last in difflib.get_close_matches(name.lstrip("-"), list(of_last), n=1, cutoff=0.8)]
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


def _repeated_keys(node: yaml.Node) -> Iterator[Mistake]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            yield Mistake(line_of(key), f"a key is a word, not {_shown(key)}")
            continue
        before = first.setdefault(key.value, key)
        if before is not key:
            yield Mistake(line_of(key), f"{key.value} is already in line {line_of(before)}; keep one of them")
        yield from _repeated_keys(value)


def _unknown_keys(node: yaml.Node, known: Mapping[str, Any], path: str) -> Iterator[Mistake]:
    for key, value in entries(node):
        if not isinstance(key, yaml.ScalarNode):
            continue  # told by _repeated_keys
        name = f"{path}{key.value}"
        if key.value not in known:
            what = f"section {name}" if not path else f"setting {name}"
            yield Mistake(line_of(key), f"there is no {what}{suggestion(key.value, known)}")
            continue
        items, kind = settings_within(value, known[key.value])
        for item in items if kind is not None else []:
            if isinstance(item, yaml.MappingNode):
                yield from _unknown_keys(item, get_type_hints(kind), f"{name}.")
            elif not _is_null(item):
                yield Mistake(line_of(item), f"{name} holds settings, not {_shown(item)}")


def _find_lines(node: yaml.Node, known: Mapping[str, Any], path: str, lines: dict[str, int]) -> None:
    for key, value in entries(node):
        name = f"{path}{key.value}"
        lines.setdefault(name, line_of(key))
        items, kind = settings_within(value, known[key.value])
        # The parser's errors do not say which of several items they are about.
        if kind is not None and len(items) == 1 and isinstance(items[0], yaml.MappingNode):
            _find_lines(items[0], get_type_hints(kind), f"{name}.", lines)


def entries(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a mapping, those of merged ones (`<<: *other`) included."""
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:merge":
            yield key, value
        else:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from entries(merged)


def settings_within(node: yaml.Node, kind: Any) -> tuple[list[yaml.Node], type | None]:
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
    return f"{where}:{line_of(place)}"


def line_of(place: yaml.Node | yaml.Event) -> int:
    assert place.start_mark is not None
    return place.start_mark.line + 1
