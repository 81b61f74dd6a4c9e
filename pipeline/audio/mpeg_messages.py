"""What libmpg123, which decodes MPEG audio within libsndfile, writes to the process's standard error about damage.

libsndfile does not ask it to be quiet, and offers no way to. So while anything is decoded, the descriptor of standard
error is that of a file in memory. What else was written there meanwhile, by another thread, is passed on.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STDERR = 2
MOST_BYTES = 2**20

# Where in its source a message comes from, and of what kind it is.
_SOURCE = re.compile(rb"(?:\[[^]]*\] error|Note|Warning): ")
_ITS_OWN = re.compile(rb"(?:Note|Warning): |\[src/libmpg123/|\s*$")


class _Listener:
    """Listens while at least one thread decodes; of several at once, each hears the messages of all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_decoding = 0
        self._before = self._memory = -1

    @contextlib.contextmanager
    def heard(self) -> Iterator[list[str]]:
        """Collects the messages of a block; they are in the list once it is left."""
        messages: list[str] = []
        with self._lock:
            if not self._num_decoding:
                self._begin()
            self._num_decoding += 1
            start = os.fstat(self._memory).st_size
        try:
            yield messages
        finally:
            with self._lock:
                if os.fstat(self._memory).st_size > start:
                    lines = os.pread(self._memory, MOST_BYTES, start).splitlines()
                    its_own = (_SOURCE.sub(b"", line).strip() for line in lines if _ITS_OWN.match(line))
                    messages += [line.decode(errors="replace") for line in its_own if line]
                self._num_decoding -= 1
                if not self._num_decoding:
                    self._end()

    def let_go(self) -> None:
        """In a child that was forked while its parent listened: gives it its standard error."""
        self._lock = threading.Lock()
        if self._num_decoding:
            self._num_decoding = 0
            os.dup2(self._before, STDERR)
            os.close(self._memory)
            os.close(self._before)

    def _begin(self) -> None:
        try:
            self._before = os.dup(STDERR)
        except OSError:  # it is closed
            self._before = os.open(os.devnull, os.O_WRONLY)
        self._memory = os.memfd_create("stderr") if hasattr(os, "memfd_create") else _unnamed_file()
        os.dup2(self._memory, STDERR)

    def _end(self) -> None:
        os.dup2(self._before, STDERR)
        if os.fstat(self._memory).st_size:
            lines = os.pread(self._memory, MOST_BYTES, 0).splitlines(keepends=True)
            if others := b"".join(line for line in lines if not _ITS_OWN.match(line)):
                os.write(STDERR, others)
        os.close(self._memory)
        os.close(self._before)


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_listener = _Listener()
heard = _listener.heard
os.register_at_fork(after_in_child=_listener.let_go)
