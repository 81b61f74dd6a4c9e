"""What a config's docstring says of its settings: for comments in a recipe, and for the pages of the reference."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

MISSING = dataclasses.MISSING


@dataclass(frozen=True)
class Setting:
    """One setting of a config.

    Attributes:
        name: As in a recipe, without its section.
        kind: Its type.
        default: What it is unless given; MISSING if it must be given.
        help: What it means.
        config: The config that it holds, or holds a list of; None for a plain value.
    """

    name: str
    kind: Any
    default: Any
    help: str
    config: type | None


def settings_of(config: type) -> list[Setting]:
    """The settings of a config, a dataclass, in its own order."""
    import docstring_parser

    told = {param.arg_name: param.description or "" for param in docstring_parser.parse(config.__doc__ or "").params}
    hints = get_type_hints(config)
    return [
        Setting(
            field.name,
            hints[field.name],
            field.default if field.default_factory is MISSING else field.default_factory(),
            " ".join(told[field.name].split()),
            config_in(hints[field.name]),
        )
        for field in dataclasses.fields(config)
    ]


def summary_of(config: type) -> str:
    """What a config says of itself, before its settings."""
    text = (config.__doc__ or "").partition("\n\n    Args:")[0]
    return " ".join(text.split())


def config_in(kind: Any) -> type | None:
    """The config that a type is, or holds a list of; None if there is none in it."""
    for one in (kind, *get_args(kind)):
        if dataclasses.is_dataclass(one) and isinstance(one, type):
            return one
    return None
