"""The sha256 of files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PIECE_BYTES = 2**22


def sha256_of(uri: str) -> str:
    """The sha256 of a file, in hex; a piece of it is in memory at a time.

    Raises:
        FileNotFoundError: there is no such file.
    """
    total = hashlib.sha256()
    start = 0
    # By ranges, since to open a file on S3 takes a request more.
    while piece := storage.read_range(uri, start, PIECE_BYTES):
        total.update(piece)
        start += len(piece)
        if len(piece) < PIECE_BYTES:
            break
    return total.hexdigest()


def sha256_of_files(paths: Iterable[Path]) -> str:
    """One sha256, in hex, for the names and contents of files of a folder, whatever their order.

    Raises:
        FileNotFoundError: a file is missing.
    """
    lines = (f"{path.name} {sha256_of(str(path))}\n" for path in sorted(paths))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
