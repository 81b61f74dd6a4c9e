"""The optional packages that hear and judge speech: the extra `asr`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def needs_extra(what: str) -> Iterator[None]:
    """Around an import: a package that is not installed is told with the extra that brings it.

    Raises:
        TwistError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise TwistError(f"{what} needs {error.name}: install this project's extra, pip install -e '.[asr]'") from error
