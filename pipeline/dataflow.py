"""Streams work units through the machines of a Ray cluster.

    WorkUnit -> decode (tasks, on CPUs) -> process and commit (actors, on GPUs where there are any) -> its part

A part file is named before the work is done and committed whole by the actor that made it, so that a unit worked on
twice leaves one part, and a run that is started again sees from a listing what is left to do.

A unit that fails (an exception, or its worker died or hung) is taken up again later, by another actor: the one that it
failed in may be what is broken, and is ended. After its second failure a unit is kept back until all others are done
and then run alone, so that it cannot take a neighbour with it, nor be blamed for one; after its third it is
quarantined: its part then says of every item why it is not there. A unit whose machine went away is not blamed, unless
that happens again and again. Where nothing but failures comes back, a unit that was done before is tried; where that
fails too, or there is none, the run stops: it is not the data.

This is a loop over Ray's tasks and actors rather than Ray Data: there, a unit that kills its worker can stop the whole
pipeline, and how often it is retried can no longer be bounded in coming versions.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import itertools
import logging
import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline import parquet, storage
from pipeline.audio import AudioError, read_spans
from pipeline.cluster import connect
from pipeline.errors import RunError, TwistError
from pipeline.work_progress import ProgressFile, WorkProgress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.cluster import ClusterConfig
    from pipeline.progress import ReportProgress
    from pipeline.work_plan import WorkPlan, WorkUnit

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
MAX_MACHINES_LOST = 5
# So many different units in a row that fail, or workers that cannot start, are the fault of none of them.
MAX_FAILURES_IN_A_ROW = 20
# In the metadata of a part whose unit failed for good.
QUARANTINED = {b"quarantined": b"yes"}
MAX_PARTS_LOOKED_AT = 100
# Decoded units that wait for each actor: enough that it never waits, few enough for the object store.
DECODED_PER_ACTOR = 2
# Actors that had nothing to do for so long are given back, where the cluster grows and shrinks.
IDLE_AT_MOST_S = 300.0
# Machines come and go also where no work tells of it.
LOOK_AROUND_EVERY_S = 5.0
# A cluster that grows takes minutes to bring up a machine; one that cannot grow never does.
PATIENCE_S = 60.0


class Processor(Protocol):
    """Made once per actor; turns a unit's decoded spans, wav [S] or the error of each, into its part.

    The part's column `drop_reason` is null for what was kept.
    """

    def __call__(self, unit: WorkUnit, wavs: Sequence[NDArray[np.float32] | AudioError]) -> pa.Table: ...


def part_uri(parts: str, name: str) -> str:
    """Where the part of a work unit lies."""
    return storage.join(parts, f"part-{name}.parquet")


def run_work_units(
    plan: WorkPlan,
    parts: str,
    processor: type[Processor],
    processor_args: dict[str, Any],
    quarantine: Callable[[WorkUnit, AudioError], pa.Table],
    cluster: ClusterConfig,
    report: ReportProgress,
) -> dict[str, Any]:
    """Makes the part of every work unit that has none yet.

    Args:
        plan: All units of the stage, with different names.
        parts: The folder of the part files.
        processor: A class importable on every worker; made there with `processor_args`.
        processor_args: Keyword arguments, small enough to send to every actor.
        quarantine: Makes the part of a unit that cannot be processed.
        cluster: How much of the cluster to use.
        report: Told of every unit that is done.

    Returns:
        How the work went, for stage.json (WorkProgress); nothing where nothing was left to do.

    Raises:
        TwistError: the processor cannot be made.
        RunError: parts cannot be written, no worker can be started, or nothing but failures comes back.
    """
    assert len(set(plan.names)) == len(plan), "two work units have one name"
    done = set(storage.list_files(parts, ".parquet"))
    pending = [number for number, name in enumerate(plan.names) if f"part-{name}.parquet" not in done]
    if not pending:
        return {}
    hours = float(plan.durations_s.sum()) / 3600
    hours_before = hours - float(plan.durations_s[pending].sum()) / 3600
    progress = WorkProgress(len(plan), hours, len(plan) - len(pending), hours_before)
    progress_file = ProgressFile(parts)
    failed: list[_Outcome] = []
    known_to_work = _one_that_was_done(plan, parts, done)
    workers = _Workers(parts, processor, processor_args, cluster, len(pending), known_to_work, progress)
    with contextlib.closing(workers):
        metrics = _Metrics(processor.__name__, progress)
        for outcome in workers.run(plan[number] for number in pending):
            if outcome.error is not None:
                failed.append(outcome)
            else:
                progress.add(outcome.unit.duration_s / 3600, outcome.worker_seconds, outcome.dropped)
                metrics.add(outcome)
                _tell(progress, progress_file, report)
        if failed and progress.num_done == progress.num_done_before == 0:
            raise RunError(f"every one of {len(plan)} work units failed, the last with: {failed[-1].error}")
        for outcome in failed:
            error = AudioError("quarantined", f"failed {MAX_FAILURES} times: {outcome.error}")
            table = quarantine(outcome.unit, error)
            part = parquet.to_bytes(table.replace_schema_metadata({**(table.schema.metadata or {}), **QUARANTINED}))
            storage.put_if_absent(part_uri(parts, outcome.unit.name), part)
            progress.add(outcome.unit.duration_s / 3600, {}, {"quarantined": len(outcome.unit.ids)})
            _tell(progress, progress_file, report)
    progress_file.remove()
    return progress.as_dict(time.time())


def _tell(progress: WorkProgress, file: ProgressFile, report: ReportProgress) -> None:
    now = time.time()
    file.write(progress, now)
    report(progress.num_done_before + progress.num_done, progress.num_units, "units", progress.as_text(now))


class _Metrics:
    """The figures as Prometheus sees them, through Ray's own metrics: ray_twist_..., by processor."""

    def __init__(self, processor: str, progress: WorkProgress) -> None:
        from ray.util.metrics import Counter as Total
        from ray.util.metrics import Gauge

        tags = {"processor": processor}
        self._units = Total("twist_units_done", "Work units that were done.", ("processor",))
        self._hours = Total("twist_audio_hours_done", "Hours of audio in these.", ("processor",))
        self._seconds = Total("twist_worker_seconds", "Seconds that workers spent.", ("processor", "step"))
        self._dropped = Total("twist_items_dropped", "Items that were left out.", ("processor", "reason"))
        for metric in (self._units, self._hours, self._seconds, self._dropped):
            metric.set_default_tags(tags)
        planned = Gauge("twist_units_planned", "Work units of the stage.", ("processor",))
        planned.set(progress.num_units, tags)

    def add(self, outcome: _Outcome) -> None:
        """Counts a unit that is done."""
        self._units.inc(1)
        self._hours.inc(outcome.unit.duration_s / 3600)
        for step, seconds in outcome.worker_seconds.items():
            if seconds > 0:
                self._seconds.inc(seconds, {"step": step})
        for reason, count in outcome.dropped.items():
            self._dropped.inc(count, {"reason": reason})


def _one_that_was_done(plan: WorkPlan, parts: str, done: set[str]) -> WorkUnit | None:
    """A unit of which an earlier run made the part, if there is one."""
    finished = (number for number, name in enumerate(plan.names) if f"part-{name}.parquet" in done)
    for number in itertools.islice(finished, MAX_PARTS_LOOKED_AT):
        with contextlib.suppress(TwistError), parquet.RowGroups(part_uri(parts, plan.names[number])) as part:
            if not QUARANTINED.items() <= part.metadata.items():
                return plan[number]
    return None


@dataclass(frozen=True)
class _Outcome:
    """A unit that is committed (error None), or that has failed for good.

    Attributes:
        unit: Which.
        error: What went wrong the last time.
        worker_seconds: What each step took.
        dropped: Items of it that were left out, by reason.
    """

    unit: WorkUnit
    error: str | None
    worker_seconds: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


class _Actor:
    """An actor, where it is, and the unit in its hands; None while it is idle or still being made."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.node_id: str | None = None
        self.unit: WorkUnit | None = None
        self.idle_since = time.monotonic()

    @property
    def is_idle(self) -> bool:
        return self.node_id is not None and self.unit is None


class _Workers:
    """The driver's view of where every unit is: queued, being decoded, decoded, or in an actor's hands."""

    def __init__(
        self,
        parts: str,
        processor: type[Processor],
        processor_args: dict[str, Any],
        cluster: ClusterConfig,
        num_units: int,
        known_to_work: WorkUnit | None,
        progress: WorkProgress,
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
        self._num_units = num_units
        self._progress = progress
        self._known_to_work = known_to_work
        self._is_trying_known = False
        self._num_new = num_units
        self._new: Iterator[WorkUnit] = iter(())
        self._time_limit_s = cluster.unit_time_limit_s
        # What fails is taken up again here, where it is counted; never by Ray itself.
        self._decode = ray.remote(_decode).options(num_cpus=1, num_returns=2, max_retries=0)
        self._make_actor = (
            ray.remote(_ProcessAndCommit)
            .options(num_cpus=cluster.cpus_per_actor, num_gpus=self._gpus_per_actor, max_restarts=0, max_task_retries=0)
            .remote
        )
        self._actor_args = (parts, processor, processor_args, cluster.unit_time_limit_s)

        self._actors: list[_Actor] = []
        self._num_wanted = 0
        self._last_news = time.monotonic()
        self._again: deque[WorkUnit] = deque()
        self._suspects: deque[WorkUnit] = deque()
        self._decoded: deque[tuple[WorkUnit, Any]] = deque()
        self._decode_seconds: dict[str, float] = {}
        # References to what is under way, each with what it is about.
        self._preparing: dict[Any, _Actor] = {}
        self._decoding: dict[Any, tuple[WorkUnit, Any]] = {}
        self._processing: dict[Any, _Actor] = {}
        self._num_failures: Counter[str] = Counter()
        self._num_machines_lost: Counter[str] = Counter()
        self._first_failures_in_a_row = 0
        self._failed_starts_in_a_row = 0

    def close(self) -> None:
        """Ends all actors."""
        for actor in list(self._actors):
            self._end(actor)

    def run(self, units: Iterator[WorkUnit]) -> Iterator[_Outcome]:
        """Does the work; yields each unit when it is committed or has failed for good, in whatever order."""
        import ray

        self._new = units
        while self._num_queued or self._suspects or self._decoding or self._decoded or self._processing:
            self._start_what_can_start()
            under_way = [*self._preparing, *self._decoding, *self._processing]
            began = time.monotonic()
            ready, _ = ray.wait(under_way, num_returns=1, timeout=LOOK_AROUND_EVERY_S, fetch_local=False)
            self._account_for(time.monotonic() - began)
            self._tell_of_waiting(bool(ready))
            for reference in ready:
                if reference in self._preparing:
                    self._take_actor(reference, self._preparing.pop(reference))
                elif reference in self._decoding:
                    yield from self._take_decoded(reference, *self._decoding.pop(reference))
                else:
                    yield from self._take_result(reference, self._processing.pop(reference))

    def _tell_of_waiting(self, has_news: bool) -> None:
        """Says what is missing where nothing happens for long and nothing is being worked on."""
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
        """Who waited for whom, for so long."""
        if any(actor.is_idle for actor in self._actors) and self._decoding:
            self._progress.starved_s += seconds
        elif self._decoded:
            self._progress.backed_up_s += seconds

    @property
    def _num_queued(self) -> int:
        return self._num_new + len(self._again)

    def _next_unit(self) -> WorkUnit:
        """New ones first: what failed is not to fail for the same passing reason."""
        if not self._num_new or (self._again and self._again[0] is self._known_to_work):
            return self._again.popleft()
        self._num_new -= 1
        return next(self._new)

    def _room(self) -> tuple[int, int]:
        """How many actors there shall be, and how many units may be decoded before one takes them.

        Asked anew each time, as machines come and go.
        """
        import ray

        resources = ray.cluster_resources()
        num_cpus = resources.get("CPU", 1.0)
        actors = resources.get("GPU", 0.0) / self._gpus_per_actor if self._gpus_per_actor else num_cpus
        if self._cluster.cpus_per_actor:
            # One whole core must remain, or nothing is ever decoded.
            actors = min(actors, (num_cpus - 1) / self._cluster.cpus_per_actor)
        if int(actors) < self._cluster.min_actors > 1 and not os.environ.get("RAY_ADDRESS"):
            raise TwistError(
                f"cluster.min_actors is {self._cluster.min_actors}, but this machine has room for {int(actors)}; lower "
                f"it, or run on a cluster (RAY_ADDRESS)"
            )
        num_actors = max(self._cluster.min_actors, int(actors))
        if self._cluster.max_actors is not None:
            num_actors = self._scale(min(num_actors, self._cluster.max_actors), self._cluster.max_actors)
        num_actors = min(self._num_units, num_actors)
        return num_actors, int(num_cpus) + DECODED_PER_ACTOR * num_actors

    def _scale(self, num_at_first: int, at_most: int) -> int:
        """Actors to have where the cluster grows: twice as many where all are busy and work waits, fewer where idle."""
        if not os.environ.get("RAY_ADDRESS"):
            return num_at_first
        self._num_wanted = self._num_wanted or num_at_first
        all_are_busy = bool(self._actors) and all(actor.unit is not None for actor in self._actors)
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
        in_hand = len(self._decoding) + len(self._decoded) + len(self._processing)
        if self._suspects and not self._num_queued and not in_hand:
            self._again.append(self._suspects.popleft())
        num_actors = min(max_actors, self._num_queued + in_hand)
        # What too many of them hold is of use to others: a GPU perhaps, or the core that decoding waits for.
        without_work = sorted((a for a in self._actors if a.unit is None), key=lambda a: a.is_idle)
        for actor in without_work[: max(0, len(self._actors) - num_actors)]:
            self._end(actor)
        while len(self._actors) < num_actors:
            actor = _Actor(self._make_actor(*self._actor_args))
            self._actors.append(actor)
            self._preparing[actor.handle.prepare.remote()] = actor
        while self._num_queued and len(self._decoding) + len(self._decoded) < max_ahead:
            unit = self._next_unit()
            status, wavs = self._decode.remote(unit, self._time_limit_s)
            self._decoding[status] = (unit, wavs)
        for actor in self._actors:
            if self._decoded and actor.is_idle:
                actor.unit, wavs = self._decoded.popleft()
                self._processing[actor.handle.process.remote(actor.unit, wavs)] = actor

    def _take_actor(self, reference: Any, actor: _Actor) -> None:
        import ray

        try:
            node_id, mistake = ray.get(reference)
        except ray.exceptions.RayError as death:
            self._end(actor)
            self._failed_starts_in_a_row += 1
            if self._failed_starts_in_a_row == MAX_FAILURES_IN_A_ROW:
                raise RunError(f"no worker can be started: {_first_line(death)}") from None
            return
        if mistake is not None:
            raise TwistError(mistake)
        self._failed_starts_in_a_row = 0
        actor.node_id = node_id
        actor.idle_since = time.monotonic()

    def _take_decoded(self, reference: Any, unit: WorkUnit, wavs: Any) -> Iterator[_Outcome]:
        import ray

        try:
            result: _Result = ray.get(reference)
        except (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError):
            yield from self._lose(unit)
            return
        except ray.exceptions.RayError as death:
            yield from self._fail(unit, _died(death))
            return
        if result.failure is not None:
            raise RunError(result.failure)
        if result.error is not None:
            yield from self._fail(unit, f"decoding: {result.error}")
        else:
            self._decode_seconds[unit.name] = result.seconds["decode"]
            self._decoded.append((unit, wavs))

    def _take_result(self, reference: Any, actor: _Actor) -> Iterator[_Outcome]:
        import ray

        unit = actor.unit
        assert unit is not None
        actor.unit = None
        actor.idle_since = time.monotonic()
        try:
            result: _Result = ray.get(reference)
        except ray.exceptions.ObjectLostError:  # the machine that had decoded it is gone, not this one
            yield from self._lose(unit)
            return
        except ray.exceptions.RayError as death:
            self._end(actor)
            if actor.node_id in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                yield from self._fail(unit, _died(death))
            else:
                yield from self._lose(unit)
            return
        if result.mistake is not None:
            raise TwistError(result.mistake)
        if result.failure is not None:
            raise RunError(result.failure)
        if result.error is not None:
            self._end(actor)  # a GPU in a bad state fails every later unit too
            yield from self._fail(unit, result.error)
        else:
            self._first_failures_in_a_row = 0
            if unit is self._known_to_work:  # which is worked on again only to see whether anything works
                self._is_trying_known = False
                return
            if not self._is_trying_known:
                self._known_to_work = unit
            seconds = {"decode": self._decode_seconds.pop(unit.name, 0.0), **result.seconds}
            yield _Outcome(unit, None, seconds, result.dropped)

    def _lose(self, unit: WorkUnit) -> Iterator[_Outcome]:
        """Takes a unit up again whose machine went away; one that does this to every machine is a failure after all."""
        self._num_machines_lost[unit.name] += 1
        if self._num_machines_lost[unit.name] % MAX_MACHINES_LOST == 0:
            yield from self._fail(unit, f"{MAX_MACHINES_LOST} machines went away with it")
        else:
            self._again.append(unit)

    def _fail(self, unit: WorkUnit, error: str) -> Iterator[_Outcome]:
        self._num_failures[unit.name] += 1
        if self._num_failures[unit.name] == 1:  # the suspects, at the end, do fail one after the other
            self._first_failures_in_a_row += 1
        if self._first_failures_in_a_row >= MAX_FAILURES_IN_A_ROW and not self._is_trying_known:
            if self._known_to_work is None:
                raise RunError(f"{MAX_FAILURES_IN_A_ROW} work units failed in a row, the last with: {error}")
            self._is_trying_known = True
            self._again.appendleft(self._known_to_work)
        elif unit is self._known_to_work:
            raise RunError(
                f"{MAX_FAILURES_IN_A_ROW} work units failed in a row, and then {unit.name}, which had been done "
                f"before, with: {error}"
            )
        if self._num_failures[unit.name] == MAX_FAILURES:
            yield _Outcome(unit, error)
        elif self._num_failures[unit.name] == MAX_FAILURES - 1:
            self._suspects.append(unit)
        else:
            self._again.append(unit)

    def _end(self, actor: _Actor) -> None:
        import ray

        ray.kill(actor.handle)
        self._actors.remove(actor)
        self._preparing = {reference: other for reference, other in self._preparing.items() if other is not actor}


@dataclass(frozen=True)
class _Result:
    """What came of one unit: all is well unless one of these is said."""

    mistake: str | None = None  # the user's: ends the run
    failure: str | None = None  # of a disk or a store: ends the run
    error: str | None = None  # counts against the unit
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    dropped: dict[str, int] = field(default_factory=dict)  # items by reason


def _decode(unit: WorkUnit, time_limit_s: float) -> tuple[_Result, list[NDArray[np.float32] | AudioError]]:
    """Decodes a unit: the wav [S], or the error, of each span."""
    began = time.perf_counter()
    try:
        with _time_limit(time_limit_s):
            wavs = list(read_spans(unit.spans))
            return _Result(seconds={"decode": time.perf_counter() - began}), wavs
    except ConnectionError as failure:
        # The unit is not to blame for a bucket that is gone, and the next one would meet the same.
        return _Result(failure=f"cannot read {unit.spans[0].uri}: {failure}"), []
    except Exception as failure:
        return _Result(error=_describe(failure)), []


class _ProcessAndCommit:
    """The actor. It commits what it makes itself, so that a part never travels."""

    def __init__(
        self, parts: str, processor: type[Processor], processor_args: dict[str, Any], time_limit_s: float
    ) -> None:
        self._parts = parts
        self._make_processor = functools.partial(processor, **processor_args)
        self._time_limit_s = time_limit_s

    def prepare(self) -> tuple[str, str | None]:
        """Makes the processor; gives the machine that this is on, and what is wrong with the run if anything is."""
        import ray

        mistake = None
        try:
            self._process: Processor = self._make_processor()
        except Exception as failure:
            mistake = (
                str(failure) if isinstance(failure, TwistError) else f"a worker cannot start: {_describe(failure)}"
            )
        return ray.get_runtime_context().get_node_id(), mistake

    def process(self, unit: WorkUnit, wavs: list[NDArray[np.float32] | AudioError]) -> _Result:
        """Makes and commits one part."""
        uri = part_uri(self._parts, unit.name)
        began = time.perf_counter()
        try:
            with _time_limit(self._time_limit_s):
                table = self._process(unit, wavs)
                part = parquet.to_bytes(table)
        except TwistError as mistake:
            return _Result(mistake=str(mistake))
        except Exception as failure:
            return _Result(error=_describe(failure))
        encoded = time.perf_counter()
        try:
            storage.put_if_absent(uri, part)
        except Exception as failure:
            # Nor is it to blame for a full disk.
            return _Result(failure=f"cannot write {uri}: {failure}")
        seconds = {"encode": encoded - began, "commit": time.perf_counter() - encoded}
        return _Result(seconds=seconds, dropped=Counter(table["drop_reason"].drop_null().to_pylist()))


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends this worker process where a block takes too long; nothing gentler stops a C library that hangs."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _died(death: Exception) -> str:
    # What Ray says of it names processes and addresses: that goes to the log, not into a part that should not vary.
    logger.info("a worker died: %s", _first_line(death))
    return "its worker died (out of memory, perhaps) or hung"


def _describe(failure: Exception) -> str:
    frames = traceback.extract_tb(failure.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(failure).__name__}: {_first_line(failure)}{place}"


def _first_line(error: Exception) -> str:
    error = getattr(error, "cause", None) or error  # what Ray wraps says more than the wrapping
    return (str(error).strip() or type(error).__name__).splitlines()[0]
