"""The driver's loop: starts actors and tasks, hands them chunks and collects the results.

failures.py decides which chunk is next, what is retried and when the run stops.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.audio.places import IoErrorsInARow
from pipeline.errors import RunError, TwistError
from pipeline.work.cluster import connect
from pipeline.work.failures import FailurePolicy
from pipeline.work.worker import ProcessAndCommit, Result, decode, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk
    from pipeline.work.progress import WorkProgress
    from pipeline.work.worker import Processor

logger = logging.getLogger(__name__)

# Decoded chunks queued per actor: enough to keep it busy, few enough for the object store.
DECODED_PER_ACTOR = 2
# On a cluster that grows and shrinks, actors that are idle for longer are released.
IDLE_AT_MOST_S = 300.0
# Longest wait for a result before looking at the cluster again: machines also come and go while no result arrives.
LOOK_AROUND_EVERY_S = 5.0
# Time without progress before a warning: an autoscaling cluster takes minutes to add a machine, others never do.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """A chunk that was committed, or given up.

    Attributes:
        chunk: The chunk.
        error: Its last error if it was given up; None if it was committed.
        worker_seconds: Seconds that workers spent on it, by step.
        dropped: Number of its items that were dropped, by reason.
    """

    chunk: Chunk
    error: str | None
    worker_seconds: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


class _Actor:
    """An actor: the node it runs on (None until it is ready) and the chunk it works on (None while it has none)."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.node_id: str | None = None
        self.chunk: Chunk | None = None
        self.idle_since = time.monotonic()

    @property
    def is_idle(self) -> bool:
        return self.node_id is not None and self.chunk is None


class Workers:
    """Starts actors, decode tasks and processing as there is room, and collects their results.

    A chunk is queued or kept back (in FailurePolicy), being decoded, decoded, or being processed by an actor. `tell` is
    called at least every LOOK_AROUND_EVERY_S.
    """

    def __init__(
        self,
        parts: str,
        processor: type[Processor],
        processor_args: dict[str, Any],
        cluster: ClusterConfig,
        chunks: FailurePolicy,
        progress: WorkProgress,
        witnesses: Callable[[Chunk], Sequence[str]],
        tell: Callable[[], None],
    ) -> None:
        import ray

        connect()
        self._cluster = cluster
        num_gpus = ray.cluster_resources().get("GPU", 0.0)
        self._gpus_per_actor = float(num_gpus > 0) if cluster.gpus_per_actor is None else cluster.gpus_per_actor
        if self._gpus_per_actor > num_gpus and not os.environ.get("RAY_ADDRESS"):
            raise TwistError(
                f"cluster.gpus_per_actor is {self._gpus_per_actor:g}, but this machine has {num_gpus:g} GPUs; leave it "
                f"out, or run on a cluster (RAY_ADDRESS)"
            )
        self._chunks = chunks
        self._num_chunks = chunks.num_queued
        self._progress = progress
        self._witnesses = witnesses
        self._tell = tell
        self._time_limit_s = cluster.unit_time_limit_s
        # Ray retries nothing: failures are counted and retried here.
        self._decode = ray.remote(decode).options(num_cpus=1, num_returns=2, max_retries=0)
        self._make_actor = (
            ray.remote(ProcessAndCommit)
            .options(num_cpus=cluster.cpus_per_actor, num_gpus=self._gpus_per_actor, max_restarts=0, max_task_retries=0)
            .remote
        )
        self._actor_args = (parts, processor, processor_args, cluster.unit_time_limit_s)

        self._actors: list[_Actor] = []
        self._num_wanted = 0
        self._last_news = time.monotonic()
        self._decoded: deque[tuple[Chunk, Any]] = deque()
        self._decode_seconds: dict[str, float] = {}
        self._io_errors = IoErrorsInARow()
        # Ray references to pending calls, each with the actor or chunk that it concerns.
        self._preparing: dict[Any, _Actor] = {}
        self._decoding: dict[Any, tuple[Chunk, Any]] = {}
        self._processing: dict[Any, _Actor] = {}

    def close(self) -> None:
        """Ends all actors."""
        for actor in list(self._actors):
            self._end(actor)

    def run(self) -> Iterator[Outcome]:
        """Works until no chunk is left; yields each when it is committed or given up, in any order.

        Raises:
            TwistError: the user made a mistake, as a worker found out.
            RunError: a disk or store fails, no worker can be started, or only failures come back.
        """
        import ray

        while self._chunks.num_queued or self._chunks.num_suspects or self._num_in_hand:
            self._start_what_can_start()
            under_way = [*self._preparing, *self._decoding, *self._processing]
            began = time.monotonic()
            ready, _ = ray.wait(under_way, num_returns=1, timeout=LOOK_AROUND_EVERY_S, fetch_local=False)
            self._account_for(time.monotonic() - began)
            self._tell_of_waiting(bool(ready))
            self._tell()
            for reference in ready:
                if reference in self._preparing:
                    self._take_actor(reference, self._preparing.pop(reference))
                    continue
                if reference in self._decoding:
                    outcome = self._take_decoded(reference, *self._decoding.pop(reference))
                else:
                    outcome = self._take_result(reference, self._processing.pop(reference))
                if outcome is not None:
                    yield outcome

    def _tell_of_waiting(self, has_news: bool) -> None:
        """Warns of missing resources if no result has arrived for PATIENCE_S and no actor is at work."""
        now = time.monotonic()
        if has_news or self._processing:
            self._last_news = now
        elif now - self._last_news > PATIENCE_S:
            self._last_news = now
            if all(actor.node_id is None for actor in self._actors):
                needs = f"{self._cluster.cpus_per_actor:g} cores and {self._gpus_per_actor:g} GPUs for an actor"
            else:
                needs = "a core to decode on"
            logger.warning("still waiting for a machine with room: %s", needs)

    def _account_for(self, seconds: float) -> None:
        """Adds a wait of `seconds` to the progress: actors waited for decoding, or decoded chunks for actors."""
        if any(actor.is_idle for actor in self._actors) and self._decoding:
            self._progress.starved_s += seconds
        elif self._decoded:
            self._progress.backed_up_s += seconds

    @property
    def _num_in_hand(self) -> int:
        """Chunks that are being decoded, decoded or being processed."""
        return len(self._decoding) + len(self._decoded) + len(self._processing)

    def _room(self) -> tuple[int, int]:
        """The number of actors to have, and of chunks that may be decoding or decoded at once.

        Computed afresh each time, as machines come and go.
        """
        import ray

        resources = ray.cluster_resources()
        num_cpus = resources.get("CPU", 1.0)
        actors = resources.get("GPU", 0.0) / self._gpus_per_actor if self._gpus_per_actor else num_cpus
        if self._cluster.cpus_per_actor:
            # Leave one whole core, or nothing is ever decoded.
            actors = min(actors, (num_cpus - 1) / self._cluster.cpus_per_actor)
        if int(actors) < self._cluster.min_actors > 1 and not os.environ.get("RAY_ADDRESS"):
            raise TwistError(
                f"cluster.min_actors is {self._cluster.min_actors}, but this machine has room for {int(actors)}; lower "
                f"it, or run on a cluster (RAY_ADDRESS)"
            )
        num_actors = max(self._cluster.min_actors, int(actors))
        if self._cluster.max_actors is not None:
            num_actors = self._scale(min(num_actors, self._cluster.max_actors), self._cluster.max_actors)
        num_actors = min(self._num_chunks, num_actors)
        return num_actors, int(num_cpus) + DECODED_PER_ACTOR * num_actors

    def _scale(self, num_at_first: int, at_most: int) -> int:
        """The number of actors to have on a growing cluster: doubles while all are busy and work waits.

        Releases actors that have been idle for IDLE_AT_MOST_S.
        """
        if not os.environ.get("RAY_ADDRESS"):
            return num_at_first
        self._num_wanted = self._num_wanted or num_at_first
        all_are_busy = bool(self._actors) and all(actor.chunk is not None for actor in self._actors)
        if all_are_busy and self._decoded:
            self._num_wanted = min(at_most, 2 * len(self._actors))
        now = time.monotonic()
        for actor in [actor for actor in self._actors if actor.is_idle and now - actor.idle_since > IDLE_AT_MOST_S]:
            if len(self._actors) > self._cluster.min_actors:
                self._end(actor)
                self._num_wanted = len(self._actors)
        return self._num_wanted

    def _start_what_can_start(self) -> None:
        max_actors, max_ahead = self._room()
        if self._chunks.num_suspects and not self._chunks.num_queued and not self._num_in_hand:
            self._chunks.queue_one_suspect()
        num_actors = min(max_actors, self._chunks.num_queued + self._num_in_hand)
        # End surplus actors, those still starting first: others may need their GPU, or decoding the core.
        without_work = sorted((a for a in self._actors if a.chunk is None), key=lambda a: a.is_idle)
        for actor in without_work[: max(0, len(self._actors) - num_actors)]:
            self._end(actor)
        while len(self._actors) < num_actors:
            actor = _Actor(self._make_actor(*self._actor_args))
            self._actors.append(actor)
            self._preparing[actor.handle.prepare.remote()] = actor
        while self._chunks.num_queued and len(self._decoding) + len(self._decoded) < max_ahead:
            chunk = self._chunks.take()
            self._progress.in_hand[chunk.name] = time.time()
            status, wavs = self._decode.remote(chunk, self._time_limit_s, self._witnesses(chunk))
            self._decoding[status] = (chunk, wavs)
        for actor in self._actors:
            if self._decoded and actor.is_idle:
                actor.chunk, wavs = self._decoded.popleft()
                self._progress.in_hand[actor.chunk.name] = time.time()
                self._processing[actor.handle.process.remote(actor.chunk, wavs)] = actor

    def _take_actor(self, reference: Any, actor: _Actor) -> None:
        import ray

        try:
            node_id, result = ray.get(reference)
        except ray.exceptions.RayError as death:
            self._end(actor)
            self._chunks.worker_did_not_start(first_line(death))
            return
        _raise_if_run_ends(result)
        self._chunks.worker_started()
        actor.node_id = node_id
        actor.idle_since = time.monotonic()

    def _take_decoded(self, reference: Any, chunk: Chunk, wavs: Any) -> Outcome | None:
        import ray

        self._progress.in_hand.pop(chunk.name, None)
        try:
            result: Result = ray.get(reference)
        except (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError):
            return _given_up(chunk, self._chunks.lose(chunk))
        except ray.exceptions.RayError as death:
            return _given_up(chunk, self._chunks.fail(chunk, _died(death)))
        _raise_if_run_ends(result)
        if result.error is not None:
            return _given_up(chunk, self._chunks.fail(chunk, f"decoding: {result.error}"))
        self._io_errors.add(result.io_errors)
        self._decode_seconds[chunk.name] = result.seconds["decode"]
        self._decoded.append((chunk, wavs))
        return None

    def _take_result(self, reference: Any, actor: _Actor) -> Outcome | None:
        import ray

        chunk = actor.chunk
        assert chunk is not None
        actor.chunk = None
        self._progress.in_hand.pop(chunk.name, None)
        actor.idle_since = time.monotonic()
        try:
            result: Result = ray.get(reference)
        except ray.exceptions.ObjectLostError:  # the machine that decoded the chunk is gone, not the actor's
            return _given_up(chunk, self._chunks.lose(chunk))
        except ray.exceptions.RayError as death:
            self._end(actor)
            if actor.node_id in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                return _given_up(chunk, self._chunks.fail(chunk, _died(death)))
            return _given_up(chunk, self._chunks.lose(chunk))
        _raise_if_run_ends(result)
        if result.error is not None:
            self._end(actor)  # a GPU in a bad state would fail every later chunk too
            return _given_up(chunk, self._chunks.fail(chunk, result.error))
        if not self._chunks.succeed(chunk):
            return None
        seconds = {"decode": self._decode_seconds.pop(chunk.name, 0.0), **result.seconds}
        return Outcome(chunk, None, seconds, result.dropped)

    def _end(self, actor: _Actor) -> None:
        import ray

        ray.kill(actor.handle)
        self._actors.remove(actor)
        self._preparing = {reference: other for reference, other in self._preparing.items() if other is not actor}


def _raise_if_run_ends(result: Result) -> None:
    if result.mistake is not None:
        raise TwistError(result.mistake)
    if result.failure is not None:
        raise RunError(result.failure)


def _given_up(chunk: Chunk, error: str | None) -> Outcome | None:
    """The outcome of a chunk that failed; None if it has no error, as it will be retried."""
    return None if error is None else Outcome(chunk, error)


def _died(death: Exception) -> str:
    # Ray's message names processes and addresses: log it, but keep it out of the part, which should not vary.
    logger.info("a worker died: %s", first_line(death))
    return "its worker died (out of memory, perhaps) or hung"
