"""The Ray cluster: how much of it to use, how to join it, and mapping a function over it."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import signal
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import RunError, TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

logger = logging.getLogger(__name__)

# Tasks of a map, per core, that are running or whose results wait to be taken.
TASKS_PER_CORE = 3
# Items of an actor: the one that it works on, and the next.
ITEMS_PER_ACTOR = 2
# Retries of a task whose worker died (out of memory, a lost machine).
MAX_RETRIES = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ClusterConfig:
    """How work is spread over the machines; nothing here changes the output.

    Args:
        min_actors: Actors (processes that turn decoded audio into a stage's output) to request at first and to keep
            while there is work. They are requested even if there is no room yet, so that an autoscaling cluster adds
            machines.
        max_actors: Maximum number of actors. On a cluster (RAY_ADDRESS) more are requested while decoded audio waits,
            up to this number, and idle ones are released after five minutes. By default there are as many as the
            cluster has room for, by its GPUs or else its cores, and no more are requested.
        gpus_per_actor: GPUs, or the fraction of one, per actor; by default one if the cluster has GPUs when the command
            starts. Set it if machines with GPUs join later.
        cpus_per_actor: Cores per actor, in addition to the one core of each decode task.
        unit_time_limit_s: Seconds after which work on one chunk counts as hung and its worker is killed.
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
    """Joins the cluster at RAY_ADDRESS, or starts one that no other machine can reach, until the command ends.

    Raises:
        RunError: it cannot be joined, or does not start on this machine, although it was tried twice.
    """
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    with _signal_handlers_kept():
        if address:
            try:
                ray.init(logging_level="warning")
            except Exception as error:  # Ray raises no narrower one where its processes die or do not answer in time
                raise _not_up(f"cannot join the Ray cluster at {address}", error) from error
            return
        with _on_loopback():
            try:
                _start_here()
            except Exception as error:
                logger.warning("Ray did not start, trying again: %s", _in_a_line(error))
                try:
                    _start_here()
                except Exception as again:
                    raise _not_up("Ray does not start on this machine", again) from again
    _keep_token_private()


def _not_up(what: str, error: Exception) -> RunError:
    return RunError(f"{what} ({_in_a_line(error)}); see that it is up, and not short of time, memory or disk")


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _start_here() -> None:
    """Starts a cluster on this machine; if that fails, ends the processes that it has left."""
    import psutil  # type: ignore[import-untyped]  # Ray brings it
    import ray

    before = set(psutil.Process().children(recursive=True))
    try:
        ray.init(
            address="local",
            # An actor and a decode task together need a core and a half, even on a machine with one core.
            num_cpus=max(2, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
    except Exception:
        with contextlib.suppress(Exception):
            ray.shutdown()
        left = set(psutil.Process().children(recursive=True)) - before
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        raise


def resources() -> dict[str, float]:
    """What the cluster has: CPU, GPU, memory (bytes), ...; joins or starts one as `connect` does."""
    import ray

    connect()
    found: dict[str, float] = ray.cluster_resources()
    return found


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets Ray start as on a Mac, where it listens on 127.0.0.1 alone; on Linux it takes all interfaces.

    It does so too if `_node_ip_address` says 127.0.0.1, which it replaces (Ray 2.60).
    """
    from ray._private import ray_constants

    name, of_process = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    of_children = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = of_process
        if of_children is None:
            del os.environ[name]
        else:
            os.environ[name] = of_children


def _keep_token_private() -> None:
    """Lets nobody else read the token that Ray has made for this user's clusters; it writes it as 0644."""
    with contextlib.suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Puts the command's handlers back: Ray's end the process by `sys.exit`, or with a stack of its C++ and SIGABRT."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    ours: dict[int, Any] = {signum: handler for signum, handler in before.items() if callable(handler)}
    if signal.SIGTERM not in ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    set_handler = signal.signal

    def set_others(signum: int, handler: Any) -> Any:
        return ours[signum] if signum in ours else set_handler(signum, handler)

    signal.signal = set_others  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler
        for signum, handler in ours.items():  # what C++ has set
            signal.signal(signum, handler)


def map_tasks(function: Callable[[Item], Result], items: Iterable[Item], *, num_cpus: float = 1) -> Iterator[Result]:
    """Yields `function(item)` for each item, in order, computed on all cores of the cluster.

    Items are drawn as cores become free, so that neither they nor results pile up. Both are sent over the network: keep
    them small, and let the function read and write files. It may run more than once for an item, on different machines.

    Args:
        function: A function that every worker can import, or a functools.partial of one.
        items: The arguments.
        num_cpus: Cores that one call takes.

    Raises:
        TwistError, OSError: raised by the function, passed on unchanged.
        RunError: a worker died repeatedly with the same item, or the function raised anything else.
    """
    import ray

    connect()
    task = ray.remote(_outcome).options(num_cpus=num_cpus, max_retries=MAX_RETRIES)
    shared = ray.put(function)
    under_way: deque[Any] = deque()
    remaining = iter(items)
    # If the caller stops early, the few running tasks are left to finish: cancelling one that is about to end aborts
    # the driver ("Tried to complete task that was not pending", Ray 2.60).
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


def map_actors(function: Callable[[Item], Result], items: Iterable[Item], config: ClusterConfig) -> Iterator[Result]:
    """Yields `function(item)` for each item, in order, computed by actors: on GPUs if there are any, else on all cores.

    Each actor keeps its copy of the function, and with it the model that the function loads at its first call. Items
    are drawn as actors become free. An actor that dies is started anew with what it had to do.

    Args:
        function: As `map_tasks` takes it.
        items: The arguments. Without any, Ray is not started.
        config: How much of the cluster to use.

    Raises:
        TwistError, OSError: raised by the function, passed on unchanged.
        RunError: an actor died repeatedly, or the function raised anything else.
    """
    import ray

    remaining = iter(items)
    if (first := next(remaining, _END)) is _END:
        return
    remaining = itertools.chain([first], remaining)
    connect()
    resources = ray.cluster_resources()
    num_gpus = resources.get("GPU", 0.0)
    gpus_each = float(num_gpus > 0) if config.gpus_per_actor is None else config.gpus_per_actor
    # On cores alone, one of them is all that an actor's threads have.
    cpus_each = config.cpus_per_actor if gpus_each else 1.0
    room = num_gpus / gpus_each if gpus_each else resources.get("CPU", 1.0)
    num_actors = max(1, min(int(room), config.max_actors or int(room)))
    make = (
        ray.remote(_KeepsFunction)
        .options(num_cpus=cpus_each, num_gpus=gpus_each, max_restarts=MAX_RETRIES, max_task_retries=MAX_RETRIES)
        .remote
    )
    actors: list[Any] = []
    under_way: deque[Any] = deque()
    num_sent = 0
    try:
        while True:
            for item in itertools.islice(remaining, ITEMS_PER_ACTOR * num_actors - len(under_way)):
                if num_sent < num_actors:
                    # The function itself, not a reference: of that Ray warns that a restart may miss it.
                    actors.append(make(function))
                under_way.append(actors[num_sent % num_actors].call.remote(item))
                num_sent += 1
            if not under_way:
                return
            try:
                result, failure = ray.get(under_way.popleft())
            except ray.exceptions.RayError as death:
                raise RunError(f"a worker died {MAX_RETRIES + 1} times, or an input was lost: {death}") from None
            if failure is not None:
                raise failure
            yield result
    finally:
        for actor in actors:
            ray.kill(actor)


class _KeepsFunction:
    """The actor of `map_actors`."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def call(self, item: Any) -> tuple[Any, Exception | None]:
        return _outcome(self._function, item)


_END: Any = object()


def _outcome(function: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    """Returns the function's result, or the exception for the driver to raise; raised here, Ray would wrap it."""
    try:
        return function(item), None
    except (TwistError, OSError, RunError) as failure:
        return None, failure
    except Exception as failure:
        return None, RunError(f"{type(failure).__name__}: {failure}")
    finally:
        _give_back_memory()


def _give_back_memory() -> None:
    """Returns freed memory to the system; allocators would keep it, and more with every task that used threads."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
