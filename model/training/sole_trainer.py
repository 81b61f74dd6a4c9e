"""Makes sure that one training at a time writes to a folder: by a lock on a disk, by a lease on S3.

    FOLDER/.lock         on a disk; the kernel ends it with the process
    FOLDER/lease.json    on S3: who trains, since when, and until when unless it is renewed

A lease whose owner died runs out and is taken over, on the same machine at once. Every write of it is conditional on
what was there before, so of two that find it run out one gets it. Machines' clocks must agree to within a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError
from pipeline.files import foreign_json, s3, storage
from pipeline.files.folder_lock import FolderInUseError, folder_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model.training.distributed import Ranks

LEASE = "lease.json"
# Longer than the store's failures are waited for (s3.PATIENCE_S), and renewed often enough to survive one.
LEASE_S = 240.0
RENEW_EVERY_S = 30.0


@contextlib.contextmanager
def sole_trainer(folder: str, ranks: Ranks) -> Iterator[Lease | None]:
    """Keeps a folder for this training; all its processes call this, and the main one holds the lock or lease.

    Returns:
        The lease, in the main process and on S3; else None.

    Raises:
        TwistError: another training is at work in the folder, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        lease: Lease | None = None
        refusal: TwistError | None = None
        if ranks.is_main:
            try:
                if storage.is_s3(folder):
                    lease = stack.enter_context(Lease(folder))
                else:
                    stack.enter_context(_locked(folder))
            except TwistError as error:
                refusal = error
        # Every process raises: those that did not would wait for the main one for ever.
        if ranks.any(refusal is not None):
            raise refusal or TwistError(f"{folder} cannot be trained into; the main process says why")
        yield lease


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
            "started": _clock(time.time()),
        }
        self._is_over = threading.Event()
        self._is_lost = False

    def __enter__(self) -> Lease:
        self._take()
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
        """Whether another training has taken the lease over, after this one could not renew it in time."""
        return self._is_lost

    def _take(self) -> None:
        while True:
            if s3.put_if_absent(self._uri, self._content()):
                return
            found = _read(self._uri)
            if found is None:  # it was given back in between
                continue
            owner, etag = found
            if owner.get("id") == self._owner["id"]:  # put by a try whose answer was lost
                return
            if owner and owner["until_s"] > time.time() and not _has_died(owner):
                raise TwistError(
                    f"{self._folder} is being trained into by process {owner.get('pid')} on {owner.get('host')} since "
                    f"{owner.get('started')}; its lease runs until {_clock(owner['until_s'])} unless it is renewed: "
                    f"wait for that, or stop it"
                )
            if s3.put_if_unchanged(self._uri, self._content(), etag):
                return

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "until_s": time.time() + LEASE_S}).encode()

    def _renew_regularly(self) -> None:
        while not self._is_over.wait(RENEW_EVERY_S):
            with contextlib.suppress(OSError):  # tried again next time; whoever finds it run out takes it over
                self.renew()

    def renew(self) -> None:
        """Puts the deadline off, unless the lease is lost."""
        found = _read(self._uri)
        is_ours = found is not None and found[0].get("id") == self._owner["id"]
        if found is None or not is_ours or not s3.put_if_unchanged(self._uri, self._content(), found[1]):
            self._is_lost = not self._is_over.is_set()


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
    """Whether a lease's owner was a process of this machine that is no more."""
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _clock(time_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
