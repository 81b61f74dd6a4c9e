"""Folders of synthesized data: made whole or not at all, and never over anything else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Made = TypeVar("Made")


def is_in_use(folder: Path) -> bool:
    """Whether there is something at `folder`: a file, or a folder that is not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def make_whole(folder: Path, write: Callable[[Path], Made]) -> Made:
    """Makes a folder, of which there is nothing yet or an empty one, in a hidden one beside it; renames it when whole.

    Args:
        folder: Where it belongs, an absolute path.
        write: Writes it into an empty folder.

    Returns:
        What `write` gives.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        partial = Path(beside) / folder.name
        partial.mkdir()
        made = write(partial)
        partial.rename(folder)  # over an empty folder, if there is one
    return made
