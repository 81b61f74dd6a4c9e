"""The bound on this machine's copies of what lies on S3, and which of them go when there are too many.

The rule: before something is fetched, the copies that were used least recently go, until all of them, with what is to
be fetched, take no more than the bound. A copy stays, whatever the bound, while a process runs that has asked for it.
The bound is `TWIST_CACHE_GB`, else a quarter of the disk that the cache lies on. What two commands fetch at the same
time may exceed it by that much, until something else is fetched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import TwistError
from pipeline.files.file_lock import locked, locked_if_free

if TYPE_CHECKING:
    from pathlib import Path

BOUND_VARIABLE = "TWIST_CACHE_GB"
SHARE_OF_DISK = 0.25
BYTES_PER_GB = 10**9


class Places(NamedTuple):
    """Where a copy and what belongs to it lie.

    Attributes:
        folder: The copy.
        list: The sha256 of each of its files.
        unfinished: The file that is being fetched.
        lock: Held by the process that fetches or checks.
        used: Shared by the processes that use it; its time is that of the last use.
    """

    folder: Path
    list: Path
    unfinished: Path
    lock: Path
    used: Path


def places_of(folder: Path) -> Places:
    """What belongs to the copy in a folder."""
    name = folder.name
    return Places(
        folder,
        *(folder.with_name(other) for other in (f"{name}.json", f".{name}.part", f".{name}.lock", f".{name}.used")),
    )


def bound_bytes(copies: Path) -> int:
    """How much the copies in a folder, which exists, may take.

    Raises:
        TwistError: `TWIST_CACHE_GB` is no size.
    """
    given = os.environ.get(BOUND_VARIABLE)
    if not given:
        return int(SHARE_OF_DISK * shutil.disk_usage(copies).total)
    try:
        bound_gb = float(given)
    except ValueError:
        bound_gb = -1.0
    if not 0 <= bound_gb < float("inf"):
        raise TwistError(f"{BOUND_VARIABLE} is {given!r}; give the gigabytes that copies of models on S3 may take")
    return int(bound_gb * BYTES_PER_GB)


def make_room(copies: Path, num_bytes: int) -> None:
    """Removes copies, by the rule above, before so many bytes are fetched.

    Raises:
        TwistError: `TWIST_CACHE_GB` is no size.
        OSError: a copy cannot be removed.
    """
    bound = bound_bytes(copies)
    with locked(copies / ".bound.lock"):  # two at once would remove twice as much
        present = [places_of(path) for path in copies.iterdir() if path.is_dir()]
        taken = {one: _size_bytes(one) for one in present}
        for one in sorted(present, key=_last_use_s):
            if sum(taken.values()) + num_bytes <= bound:
                return
            if _remove(one):
                del taken[one]


def _remove(one: Places) -> bool:
    """Removes a copy unless it is in use. Its locks stay: who waits for a lock that is gone waits beside the others."""
    with locked_if_free(one.lock) as is_idle, locked_if_free(one.used) as is_unused:
        if not (is_idle and is_unused):
            return False
        one.list.unlink(missing_ok=True)
        one.unfinished.unlink(missing_ok=True)
        shutil.rmtree(one.folder)
        return True


def _size_bytes(one: Places) -> int:
    total = 0
    for path in (*one.folder.rglob("*"), one.unfinished):
        with contextlib.suppress(FileNotFoundError):  # another process has just finished it
            total += path.stat().st_size if path.is_file() else 0
    return total


def _last_use_s(one: Places) -> float:
    return one.used.stat().st_mtime if one.used.exists() else 0.0
