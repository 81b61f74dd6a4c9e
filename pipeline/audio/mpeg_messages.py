"""What libmpg123, which decodes MPEG audio within libsndfile, says about damage on the standard error of C.

libsndfile does not ask it to be quiet, and offers no way to. So while MPEG audio is decoded, C's variable `stderr`
names a file in memory, which glibc allows ("normal variables which you can set just like any others", section Standard
Streams of its manual); elsewhere what libmpg123 says reaches the terminal. Descriptor 2 stays as it is: Python and its
tracebacks, faulthandler, glibc's own last words and child processes write there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 2**20
UNBUFFERED = 2  # _IONBF

# Where in its source a message comes from, and of what kind it is.
_SOURCE = re.compile(rb"(?:\[[^]]*\] error|Note|Warning): ")
_ITS_OWN = re.compile(rb"(?:Note|Warning): |\[src/libmpg123/|\s*$")


class _Streams(NamedTuple):
    """C's variable `stderr`, and what it names by turns."""

    variable: ctypes.c_void_p
    terminal: int | None
    memory: int
    memory_descriptor: int


@functools.cache
def _streams() -> _Streams | None:
    """Never closed: a thread of C may hold on to one for longer than the variable names it."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_char_p)
    libc.setvbuf.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    descriptor = os.memfd_create("mpeg_messages")
    memory = libc.fdopen(descriptor, b"a")
    libc.setvbuf(memory, None, UNBUFFERED, 0)
    variable = ctypes.c_void_p.in_dll(libc, "stderr")
    return _Streams(variable, variable.value, memory, descriptor)


class _Listener:
    """Listens while at least one thread decodes.

    Which of several threads a message is of cannot be told, so that blocks that overlap hear nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_decoding = 0
        self._is_shared = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[list[str]]:
        """Collects the messages of a block; they are in the list once it is left."""
        messages: list[str] = []
        if (streams := _streams()) is None:
            yield messages
            return
        with self._lock:
            self._is_shared = self._num_decoding > 0
            self._num_decoding += 1
            streams.variable.value = streams.memory
        try:
            yield messages
        finally:
            with self._lock:
                self._num_decoding -= 1
                if not self._num_decoding:
                    streams.variable.value = streams.terminal
                num_bytes = os.fstat(streams.memory_descriptor).st_size
                if num_bytes and not self._is_shared:
                    messages += _its_own(os.pread(streams.memory_descriptor, MOST_BYTES, 0))
                if num_bytes > (MOST_BYTES if self._num_decoding else 0):
                    _pass_on_others(os.pread(streams.memory_descriptor, MOST_BYTES, 0))
                    os.ftruncate(streams.memory_descriptor, 0)

    def let_go(self) -> None:
        """In a forked child, which decodes nothing yet: it gets what its parent had before, and a memory of its own."""
        self._lock = threading.Lock()
        if self._num_decoding and (streams := _streams()):
            self._num_decoding = 0
            streams.variable.value = streams.terminal
        _streams.cache_clear()


def _its_own(said: bytes) -> list[str]:
    its_own = (_SOURCE.sub(b"", line).strip() for line in said.splitlines() if _ITS_OWN.match(line))
    return [line.decode(errors="replace") for line in its_own if line]


def _pass_on_others(said: bytes) -> None:
    """Writes to the terminal what other code of C has said meanwhile."""
    if others := b"".join(line for line in said.splitlines(keepends=True) if not _ITS_OWN.match(line)):
        with contextlib.suppress(OSError):  # it is closed
            os.write(2, others)


_listener = _Listener()
heard = _listener.heard
os.register_at_fork(after_in_child=_listener.let_go)
