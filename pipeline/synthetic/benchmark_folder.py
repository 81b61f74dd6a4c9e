"""Folders of benchmarks of our own making: made whole or not at all, and never over another.

FOLDER/benchmark.json    the settings it was made with
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _require_same(folder, settings)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        partial = Path(beside) / folder.name
        partial.mkdir()
        write(partial)
        (partial / MARKER).write_text(json.dumps(settings, indent=2) + "\n")
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)


def _require_same(folder: Path, settings: Mapping[str, int]) -> None:
    try:
        before = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        raise TwistError(f"{folder} is in use, and not by a benchmark; name another folder, or empty it") from None
    if before != settings:
        raise TwistError(f"{folder} holds a benchmark made with {before}, not with {settings}; name another folder")
