"""Locks local folders, so that no two commands work in one at once; the kernel ends a lock with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = ".lock"

_held: set[IO[str]] = set()


class FolderInUseError(Exception):
    """Another process has locked a folder; `holder` is its id."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """Holds FOLDER/.lock, in which this process writes its id; makes the folder if it is missing.

    Raises:
        FolderInUseError: another process holds it.
        OSError: the folder cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with Path(folder, LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise FolderInUseError(lock.read().strip()) from None
        _held.add(lock)
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
        finally:
            _held.discard(lock)


def holder_of(folder: str) -> str | None:
    """The id of the process that has locked a folder, on whatever machine sees its lock; None if none has."""
    try:
        with Path(folder, LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip()
    except OSError:
        return None
    return None


def _let_go() -> None:
    # A forked child (a DataLoader's worker) that outlives its parent would keep the folder locked.
    for lock in _held:
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
