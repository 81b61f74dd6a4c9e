"""Maps a function over items: in this process if that takes seconds, on the cluster if it takes longer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.work import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Less work than this is not worth starting Ray for.
SECONDS_HERE = 10.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    is_for_cluster: Callable[[Item], bool] = lambda _: True,
) -> Iterator[Result]:
    """Yields `function(item)` for each item, in order; starts in this process and moves to the cluster after a while.

    Args:
        function: A function that every worker can import, or a functools.partial of one.
        items: The arguments, drawn as there is room for them.
        is_for_cluster: Whether an item is enough work to send to the cluster; the others are done in this process.

    Raises:
        TwistError, OSError, RunError: as cluster.map_tasks.
    """
    remaining = iter(items)
    seconds = 0.0
    for item in remaining:
        began = time.monotonic()
        result = function(item)
        seconds += time.monotonic() - began if is_for_cluster(item) else 0.0
        yield result
        if seconds >= SECONDS_HERE:
            break
    # Start Ray only when there is an item for it.
    while (item := next(remaining, _END)) is not _END:
        if not is_for_cluster(item):
            yield function(item)
            continue
        run = _Run(item, remaining, is_for_cluster)
        yield from cluster.map_tasks(function, run)
        if run.next_item is not _END:
            yield function(run.next_item)


class _Run:
    """Iterates over `first` and the following items for the cluster; keeps the first other item as `next_item`."""

    def __init__(self, first: Any, remaining: Iterator[Any], is_for_cluster: Callable[[Any], bool]) -> None:
        self._first = first
        self._remaining = remaining
        self._is_for_cluster = is_for_cluster
        self.next_item: Any = _END

    def __iter__(self) -> Iterator[Any]:
        yield self._first
        for item in self._remaining:
            if not self._is_for_cluster(item):
                self.next_item = item
                return
            yield item


_END: Any = object()
