"""Folders of benchmarks of our own making: made whole or not at all, and never over another.

FOLDER/benchmark.json    the settings it was made with
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.errors import TwistError
from pipeline.synthetic.whole_folder import is_in_use, make_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MARKER = "benchmark.json"


def make_benchmark(folder: Path, settings: Mapping[str, int], write: Callable[[Path], None]) -> None:
    """Makes a benchmark in `folder`, unless it is there already.

    Args:
        folder: Where it belongs.
        settings: What it is made of; the same settings give the same bytes.
        write: Writes it into an empty folder.

    Raises:
        TwistError: the folder holds something else, or a benchmark of other settings.
    """
    folder = folder.resolve()
    if is_in_use(folder):
        _require_same(folder, settings)
        return

    def write_with_marker(root: Path) -> None:
        write(root)
        (root / MARKER).write_text(json.dumps(settings, indent=2) + "\n")

    make_whole(folder, write_with_marker)


def _require_same(folder: Path, settings: Mapping[str, int]) -> None:
    try:
        before = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        raise TwistError(f"{folder} is in use, and not by a benchmark; name another folder, or empty it") from None
    if before != settings:
        raise TwistError(f"{folder} holds a benchmark made with {before}, not with {settings}; name another folder")
