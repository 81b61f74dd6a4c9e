r"""Text of others as a person may see it: what would steer a terminal is shown escaped (`\x1b`, `\u202e`, `\n`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

# Without them words in Persian or Hindi are spelled otherwise; they move nothing.
JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """A text with its control characters, line ends, marks of direction and lone surrogates escaped."""
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_in(value: Any) -> Any:
    """A value as of JSON, with all text in it (keys too) made printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_in(key): printable_in(inner) for key, inner in value.items()}
    return [printable_in(inner) for inner in value] if isinstance(value, list | tuple) else value


def _shown(char: str) -> str:
    if char.isprintable() or char in JOINERS or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode()
