"""Decodes what libsndfile cannot with PyAV, in a process of its own: pyav_process.py says how they talk."""

from __future__ import annotations

import io
import json
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pipeline.audio import pyav_process
from pipeline.audio.errors import AudioError
from pipeline.files import places
from pipeline.files.local_copy import unnamed_copy

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The folder of the packages.
ROOT = Path(__file__).resolve().parents[2]
# A decoder that gives nothing for so long hangs.
PATIENCE_S = 60.0
READ_AT_ONCE = 2**20
NEGLIGIBLE_S = 0.1


class _Process:
    """A process that decodes one file at a time; it ends with this one."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair()
        # It finds this package wherever this process has found it. A session of its own: Ctrl-C is for this process,
        # whose end ends that one too.
        command = [sys.executable, "-P", "-m", pyav_process.__name__, str(theirs.fileno())]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
        theirs.close()

    def is_alive(self) -> bool:
        """Whether it can take another file."""
        return self._process.poll() is None

    def end(self) -> str:
        """Ends it; returns in a phrase how it had ended before, if it had."""
        self.control.close()
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return f"signal {-status}" if status < 0 else f"status {status}"


# Processes that wait for a file.
_idle: list[_Process] = []
_idle_lock = threading.Lock()


def _take_process() -> _Process:
    with _idle_lock:
        while _idle:
            process = _idle.pop()
            # After a fork, those of the parent are the parent's.
            if process.owner == os.getpid() and process.is_alive():
                return process
    return _Process()


class PyAVStream:
    """A file's samples from its first frame on; the caller who opened the file closes it.

    Args:
        file: The open file.
        to_the_end: Read on where a WAV's header says that it ends.
        header_only: Only the attributes are wanted.

    Attributes:
        sample_rate_hz, num_channels: The format.
        num_frames: As the file states it, if that can be relied on; else None.

    Raises:
        AudioError: it holds no audio that PyAV can decode.
    """

    def __init__(self, file: BinaryIO, *, to_the_end: bool = False, header_only: bool = False) -> None:
        descriptor, self._copy = _local_file(file)
        self._process = _take_process()
        self._pipe, theirs = os.pipe()
        self._received = b""
        self._is_open, self._has_ended = True, False
        request = {"length": os.fstat(descriptor).st_size, "to_the_end": to_the_end, "header_only": header_only}
        try:
            socket.send_fds(self._process.control, [json.dumps(request).encode()], [descriptor, theirs])
        finally:
            os.close(theirs)
        try:
            kind, content = self._receive()
            if kind == b"X":
                self._has_ended = True
                raise AudioError("unreadable", content.decode(errors="replace"))
            _raise_failure(kind, content)
        except AudioError:
            self.close()
            raise
        facts = json.loads(content)
        self.sample_rate_hz: int = facts["sample_rate_hz"]
        self.num_channels: int = facts["num_channels"]
        self.num_frames: int | None = facts["num_frames"]

    def read(self) -> NDArray[np.float32]:
        """The next samples [S, channels], NaN where they are lost; none at the end.

        Raises:
            AudioError: the decoder crashed or hangs, or the file breaks off with an error.
        """
        while not self._has_ended:
            kind, content = self._receive()
            if kind == b"S" and content:
                return np.frombuffer(content, np.float32).reshape(-1, self.num_channels)
            if kind == b"L":
                # A packet or two, as where files were joined, are no hole worth a cut.
                value = np.nan if len(content) > NEGLIGIBLE_S * self.sample_rate_hz else 0.0
                return np.full((len(content), self.num_channels), value, np.float32)
            _raise_failure(kind, content)
            self._has_ended = kind in (b"E", b"X")
            if kind == b"X":
                raise AudioError("undecodable", content.decode(errors="replace"))
        return np.zeros((0, self.num_channels), np.float32)

    def close(self) -> None:
        """Frees the decoder."""
        if not self._is_open:
            return
        self._is_open = False
        os.close(self._pipe)
        if self._copy is not None:
            self._copy.close()
        if self._has_ended and self._process.is_alive():
            with _idle_lock:
                _idle.append(self._process)
        else:  # in the middle of a file it might not hear of the next for long
            self._process.end()

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            self.close()

    def _receive(self) -> tuple[bytes, bytes]:
        kind, length = pyav_process.HEADER.unpack(self._read(pyav_process.HEADER.size))
        return kind, bytes(length) if kind in (b"L", b"O") else self._read(length)

    def _read(self, length: int) -> bytes:
        pieces = [self._received]
        num_bytes = len(self._received)
        while num_bytes < length:
            if not select.select([self._pipe], [], [], PATIENCE_S)[0]:
                raise AudioError("undecodable", f"the decoder gave nothing for {PATIENCE_S:g} s")
            piece = os.read(self._pipe, READ_AT_ONCE)
            if not piece:
                raise AudioError("undecodable", f"the decoder crashed on it ({self._process.end()})")
            pieces.append(piece)
            num_bytes += len(piece)
        data = b"".join(pieces)
        self._received = data[length:]
        return data[:length]


def _raise_failure(kind: bytes, content: bytes) -> None:
    if kind == b"O":
        failure = OSError(len(content), os.strerror(len(content)))
        raise AudioError(places.reason_of(failure), str(failure)) from failure


def _local_file(file: BinaryIO) -> tuple[int, BinaryIO | None]:
    """A descriptor of a local file with the same bytes, and that file if it is a copy."""
    try:
        return file.fileno(), None
    except (OSError, AttributeError, io.UnsupportedOperation):
        pass
    try:
        copy = unnamed_copy(file)
    except OSError as failure:
        raise AudioError(places.reason_of(failure), str(failure)) from failure
    return copy.fileno(), copy
