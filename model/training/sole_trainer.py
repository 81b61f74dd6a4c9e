"""Makes sure that one training at a time writes to a folder: by a lock on a disk, by a lease on S3.

    FOLDER/.lock         on a disk; the kernel ends it with the process
    FOLDER/lease.json    on S3: who trains, since when, and until when unless it is renewed

A lease whose owner died runs out and is taken over; at once where its process would be seen if it lived, under the same
kernel and in the same PID namespace. Every write of it is conditional on what was there before, so of two that find it
run out one gets it. Its owner trusts it until a minute before it runs out, for machines' clocks may differ by that
much, and renews it as it begins a checkpoint and before it completes it. Should it be paused right after that, what
keeps it from completing the checkpoint is the placeholder that its successor removes (checkpoint_parts.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError
from pipeline.files import foreign_json, s3, storage
from pipeline.files.folder_lock import FolderInUseError, folder_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from model.training.distributed import Ranks

LEASE = "lease.json"
# Longer than the store's failures are waited for (s3.PATIENCE_S), and renewed often enough to survive one.
LEASE_S = 240.0
RENEW_EVERY_S = 30.0
CLOCKS_DIFFER_S = 60.0


@contextlib.contextmanager
def sole_trainer(folder: str, ranks: Ranks) -> Iterator[Lease | None]:
    """Keeps a folder for this training; all its processes call this, and the main one holds the lock or lease.

    Returns:
        The lease, in the main process and on S3; else None.

    Raises:
        TwistError: another training is at work in the folder, it cannot be written, or its store knows no conditions.
    """
    with contextlib.ExitStack() as stack:

        def enter() -> Lease | None:
            if not ranks.is_main:
                return None
            if storage.is_s3(folder):
                return stack.enter_context(Lease(folder))
            stack.enter_context(_locked(folder))
            return None

        yield ranks.all_or_none(enter)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder))
        except FolderInUseError as error:
            raise TwistError(f"{folder} is in use by process {error.holder}; wait for it or stop it") from None
        except OSError as error:
            raise TwistError(f"cannot write checkpoints to {folder}: {error.strerror}") from error
        yield


class Lease:
    """A lease on a folder on S3, renewed by a thread while its context is open."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._uri = storage.join(folder, LEASE)
        self._owner = {
            "id": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **_process_table(),
            "started": _clock(time.time()),
        }
        self._is_over = threading.Event()
        self._is_taken = False
        self._until_s = self._until_monotonic_s = 0.0
        self._renewing = threading.Lock()

    def __enter__(self) -> Lease:
        self._take()
        try:
            self.renew()  # a store that cannot is to be found out before anything is trained
        except TwistError:
            self.__exit__()
            raise
        threading.Thread(target=self._renew_regularly, name="lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        with contextlib.suppress(OSError):  # else it runs out by itself
            found = _read(self._uri)
            if found and found[0].get("id") == self._owner["id"]:
                s3.delete(self._uri)

    @property
    def is_lost(self) -> bool:
        """Whether another training has taken the lease over, or may have, as this one has not renewed it in time."""
        left_s = min(self._until_s - time.time(), self._until_monotonic_s - time.monotonic())
        return self._is_taken or left_s < CLOCKS_DIFFER_S

    def confirm(self) -> None:
        """Renews the lease; where the store cannot be reached, makes sure that it has not run out.

        Raises:
            TwistError: it is lost.
        """
        with contextlib.suppress(OSError):
            self.renew()
        if self.is_lost:
            raise TwistError(
                f"another training has taken {self._folder} over, or may have, for this one could not renew its lease "
                f"in time; nothing was saved since. Train on once no other does"
            )

    def renew(self) -> None:
        """Puts the deadline off, unless another training has the lease."""
        with self._renewing:  # of two at once, one would find that the other has changed it
            found = _read(self._uri)
            is_ours = found is not None and found[0].get("id") == self._owner["id"]
            if found is None or not is_ours or not self._put_if_unchanged(found[1]):
                self._is_taken = not self._is_over.is_set()

    def _take(self) -> None:
        while True:
            if self._put(lambda content: s3.put_if_absent(self._uri, content)):
                return
            found = _read(self._uri)
            if found is None:  # it was given back in between
                continue
            owner, etag = found
            is_ours = owner.get("id") == self._owner["id"]  # put by a try whose answer was lost
            if owner and not is_ours and owner["until_s"] > time.time() and not _has_died(owner):
                raise TwistError(
                    f"{self._folder} is being trained into by process {owner.get('pid')} on {owner.get('host')} since "
                    f"{owner.get('started')}; its lease runs until {_clock(owner['until_s'])} unless it is renewed: "
                    f"wait for that, or stop it"
                )
            if self._put_if_unchanged(etag):
                return

    def _put_if_unchanged(self, etag: str) -> bool:
        return self._put(lambda content: s3.put_if_unchanged(self._uri, content, etag))

    def _put(self, put: Callable[[bytes], bool]) -> bool:
        # Read before the request, which may take long. The monotonic clock, for the other may be set back.
        until_s, until_monotonic_s = time.time() + LEASE_S, time.monotonic() + LEASE_S
        is_put = put(json.dumps({**self._owner, "until_s": until_s}).encode())
        if is_put:
            self._until_s, self._until_monotonic_s = until_s, until_monotonic_s
        return is_put

    def _renew_regularly(self) -> None:
        while not self._is_over.wait(RENEW_EVERY_S):
            with contextlib.suppress(OSError):  # tried again next time; whoever finds it run out takes it over
                self.renew()


def _read(uri: str) -> tuple[dict[str, Any], str] | None:
    """A lease and its version; a damaged one says nothing, and so has run out."""
    try:
        content, etag = s3.read_version(uri)
    except FileNotFoundError:
        return None
    try:
        owner = foreign_json.parse(content)
        is_whole = isinstance(owner, dict) and isinstance(owner.get("until_s"), float)
    except ValueError:
        is_whole = False
    return (owner if is_whole else {}), etag


def _has_died(owner: dict[str, Any]) -> bool:
    """Whether a lease's owner was a process that would be seen from here, and is no more."""
    pid, table = owner.get("pid"), _process_table()
    # Hosts may share a name, as containers in one network do, and virtual machines called localhost.
    if None in table.values() or any(owner.get(name) != value for name, value in table.items()):
        return False
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _process_table() -> dict[str, str | int | None]:
    """What tells the kernel and the PID namespace in which this process has its number; None where it is not told."""
    table: dict[str, str | int | None] = {"boot_id": None, "pid_namespace": None}
    with contextlib.suppress(OSError):
        table["boot_id"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        table["pid_namespace"] = Path("/proc/self/ns/pid").stat().st_ino
    return table


def _clock(time_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
