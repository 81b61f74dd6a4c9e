"""A seekable file on top of a function that reads a range of bytes."""

from __future__ import annotations

import io
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


# The beginning of a file, where its header lies, and where its samples are read.
KEPT_RANGES = 2


class RangeReader(io.RawIOBase):
    """Reads `size` bytes through `read_range(start, length)`; wrap it in a BufferedReader.

    Decoders go to the end of a file and back to its beginning a dozen times, and a BufferedReader forgets each time
    what it has read. So the last ranges are kept here, if they are of `kept_bytes` or less, and not asked for again.
    """

    def __init__(self, size: int, read_range: Callable[[int, int], bytes], kept_bytes: int = 0) -> None:
        self._size = size
        self._read_range = read_range
        self._kept_bytes = kept_bytes
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT_RANGES)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._next_bytes(length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _next_bytes(self, length: int) -> bytes | memoryview:
        """At least one of the next bytes, and `length` at most; none where the file has become shorter."""
        for start, data in self._kept:
            place = self._position - start
            if 0 <= place < len(data):
                return memoryview(data)[place : place + length]
        data = self._read_range(self._position, length)
        if len(data) <= self._kept_bytes:
            self._kept.append((self._position, data))
        return data
