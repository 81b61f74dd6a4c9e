"""Parses JSON that others may have damaged: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse(text: bytes | str) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested so deep that Python's parser gives up.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
