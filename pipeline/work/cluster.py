"""The Ray cluster: how much of it to use, joining it, and mapping a function over it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import RunError, TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Tasks of a map that are under way or wait to be taken, per core.
TASKS_PER_CORE = 3
# A worker that dies with a task (out of memory, a machine that went away) costs a task so many more tries.
MAX_RETRIES = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ClusterConfig:
    """How work is spread over the machines. Nothing here changes what comes out.

    Args:
        min_actors: Actors that process decoded audio to ask for at first, and to keep while there is work; also where
            there is no room for them yet, so that a cluster that grows brings machines.
        max_actors: Actors at most. On a cluster (RAY_ADDRESS) more are asked for while decoded audio waits for one, and
            given back when idle for minutes. Unless given, as many as the cluster has GPUs for, or one per core where
            it has none, and no more are asked for.
        gpus_per_actor: GPUs, or the share of one, that an actor takes; unless given, one where the cluster has GPUs as
            the command starts. Give it where machines with GPUs join later.
        cpus_per_actor: Cores that an actor takes beside the one core of each decode task.
        unit_time_limit_s: Seconds after which work on one chunk counts as hung and its worker is ended.
    """

    min_actors: int = 1
    max_actors: int | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: float = 0.5
    unit_time_limit_s: float = 3600.0

    def __post_init__(self) -> None:
        if self.min_actors < 1:
            raise TwistError(f"cluster.min_actors must be at least 1, not {self.min_actors}")
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise TwistError(
                f"cluster.max_actors must be at least cluster.min_actors ({self.min_actors}), not {self.max_actors}"
            )
        if self.cpus_per_actor < 0 or (self.gpus_per_actor or 0) < 0:
            raise TwistError("cluster.cpus_per_actor and cluster.gpus_per_actor must not be negative")
        if self.unit_time_limit_s <= 0:
            raise TwistError(f"cluster.unit_time_limit_s must be positive, not {self.unit_time_limit_s}")


def connect() -> None:
    """Joins the cluster that a job runs on (RAY_ADDRESS), or starts one on this machine for the time of the command."""
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level="warning")
        return
    ray.init(
        address="local",
        # An actor and a decode task need a core and a half between them, also where there is one core.
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )


def map_tasks(function: Callable[[Item], Result], items: Iterable[Item], *, num_cpus: float = 1) -> Iterator[Result]:
    """Yields `function` of each item, in the items' order, worked out on all cores of the cluster.

    Items are drawn as there is room for them, so that neither they nor results pile up. Both travel: keep them small,
    and let the function read and write files. It may run more than once for one item, on different machines.

    Args:
        function: Importable on every worker, or a functools.partial of such a one.
        items: What to map over.
        num_cpus: Cores that one call takes.

    Raises:
        TwistError, OSError: what the function raised, as it was.
        RunError: a worker died with one item again and again, or the function failed otherwise.
    """
    import ray

    connect()
    task = ray.remote(_outcome).options(num_cpus=num_cpus, max_retries=MAX_RETRIES)
    shared = ray.put(function)
    under_way: deque[Any] = deque()
    remaining = iter(items)
    # Where this ends early, the few tasks under way are left to end by themselves: cancelling one that is just ending
    # aborts the driver ("Tried to complete task that was not pending", Ray 2.60).
    while True:
        room = TASKS_PER_CORE * int(ray.cluster_resources().get("CPU", 1)) - len(under_way)
        for item in (next(remaining, _END) for _ in range(room)):
            if item is not _END:
                under_way.append(task.remote(shared, item))
        if not under_way:
            return
        try:
            result, failure = ray.get(under_way.popleft())
        except ray.exceptions.RayError as death:
            raise RunError(f"a worker died {MAX_RETRIES + 1} times, or an input was lost: {death}") from None
        if failure is not None:
            raise failure
        yield result


_END: Any = object()


def _outcome(function: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    """What the function gives, or the exception that the driver is to raise, without Ray's wrapping."""
    try:
        return function(item), None
    except (TwistError, OSError, RunError) as failure:
        return None, failure
    except Exception as failure:
        return None, RunError(f"{type(failure).__name__}: {failure}")
    finally:
        _give_back_memory()


def _give_back_memory() -> None:
    """Returns what a task has freed to the system; allocators keep it, and more with every task that used threads."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
