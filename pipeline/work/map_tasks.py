"""Mapping a function over items where it is quickest: here what takes seconds, on the cluster what takes longer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.work import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# What takes no longer is not worth starting Ray for.
SECONDS_HERE = 10.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    is_for_cluster: Callable[[Item], bool] = lambda _: True,
) -> Iterator[Result]:
    """Yields `function` of each item, in the items' order; it must be importable on every worker, as for map_tasks.

    Args:
        function: What to do; it may raise what map_tasks may raise.
        items: What to map over, drawn as there is room for them.
        is_for_cluster: Whether an item is enough work to travel; the others are done here.
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
    # Ray is not started before there is an item for it.
    while (item := next(remaining, _END)) is not _END:
        if not is_for_cluster(item):
            yield function(item)
            continue
        run = _Run(item, remaining, is_for_cluster)
        yield from cluster.map_tasks(function, run)
        if run.next_item is not _END:
            yield function(run.next_item)


class _Run:
    """An item and those after it that are for the cluster too; the first that is not is kept as `next_item`."""

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
