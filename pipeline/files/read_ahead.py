"""Reading several small files at once, in order, to hide the latency of the store."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

File = TypeVar("File")
Content = TypeVar("Content")

FILES_AHEAD = 32


def read_ahead(read: Callable[[File], Content], files: Iterable[File]) -> Iterator[Content]:
    """Yields what `read` makes of each file, in order, while threads read the FILES_AHEAD next ones.

    What `read` raises is raised when that file's turn comes.
    """
    with ThreadPoolExecutor(FILES_AHEAD) as threads:
        under_way: deque[Future[Content]] = deque()
        try:
            for file in files:
                under_way.append(threads.submit(read, file))
                if len(under_way) == FILES_AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
