"""Mapping a function over items where it is quickest: here what takes seconds, on the cluster what takes longer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import cluster

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
    held: Any = _NOTHING

    def worthy() -> Iterator[Item]:
        """Items up to the next one that is to be done here."""
        nonlocal held
        for item in remaining:
            if not is_for_cluster(item):
                held = item
                return
            yield item

    while True:
        yield from cluster.map_tasks(function, worthy())
        if held is _NOTHING:
            return
        yield function(held)
        held = _NOTHING


_NOTHING: Any = object()
