"""Parses JSON that others wrote, in bounded memory and depth: the one reader for it."""

from __future__ import annotations

import json
from typing import Any

# Of one text. The largest that are read, the index of a large model or a line about a day of speech, have a few
# megabytes; as objects in memory a text takes up to thirty times as much.
MAX_JSON_BYTES = 2**24
# How deep lists and objects may lie in each other; those that are read have a depth of five.
MAX_DEPTH = 100


def parse(text: str | bytes, max_bytes: int | None = MAX_JSON_BYTES) -> Any:
    """The value that a JSON text stands for.

    Args:
        text: The JSON.
        max_bytes: Its greatest length; None for any, where this project wrote the file.

    Raises:
        ValueError: it is not JSON, or longer or deeper than what is read here can be.
    """
    if max_bytes is not None and len(text) > max_bytes:
        raise ValueError(f"it is longer than {max_bytes} bytes")
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    num_brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if num_brackets > MAX_DEPTH:
        _refuse_depth(value)
    return value


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [one for one in level if isinstance(one, dict | list)]
        if not inner:
            return
        level = [part for one in inner for part in (one.values() if isinstance(one, dict) else one)]
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {MAX_DEPTH} deep")
