"""Streams work units through the machines of a Ray cluster; the only module that imports Ray.

    WorkUnit -> decode (CPU tasks) -> process and commit (actors, on GPUs where there are any) -> PARTS/part-<name>.parquet

A part file is named before the work is done and committed whole by the actor that made it, so that a unit run twice
leaves one part, and a run that is started again sees from a listing what is left to do. What fails is run again in
rounds; a unit that has failed three rounds is quarantined: its part then says of every item why it is not there.

Ray Data's defaults do not fit rows of 100 MB and minutes of work each. One row is one block here; the two operators ask
for different shares of a core, since equal ones would be fused into one; and retries are bounded, since by default a
unit that kills its worker is retried without end.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline import parquet, storage
from pipeline.audio import AudioError, Span, read_spans
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress

ROUNDS = 3
RETRIES_IN_FIRST_ROUND = 2
LOCAL_OBJECT_STORE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class ClusterConfig:
    """How work is spread over the machines. Nothing here changes what comes out.

    Args:
        min_actors: Fewest actors that process decoded audio.
        max_actors: Most such actors; unless given, one per GPU of the cluster, or one per core where it has none.
        gpus_per_actor: GPUs (or a share of one) that an actor takes where the cluster has GPUs.
        cpus_per_actor: Cores that an actor takes; must differ from the one core of a decode task.
        unit_time_limit_s: Seconds after which work on one unit counts as hung and its worker is killed.
    """

    min_actors: int = 1
    max_actors: int | None = None
    gpus_per_actor: float = 1.0
    cpus_per_actor: float = 0.5
    unit_time_limit_s: float = 3600.0

    def __post_init__(self) -> None:
        if self.min_actors < 1 or (self.max_actors is not None and self.max_actors < self.min_actors):
            raise TwistError(f"cluster: need 1 <= min_actors <= max_actors, not {self.min_actors}, {self.max_actors}")
        if self.cpus_per_actor <= 0 or self.cpus_per_actor == 1:
            raise TwistError("cluster.cpus_per_actor must be positive and other than 1, the share of a decode task")
        if self.gpus_per_actor < 0 or self.unit_time_limit_s <= 0:
            raise TwistError("cluster.gpus_per_actor must not be negative, and unit_time_limit_s must be positive")


@dataclass(frozen=True)
class WorkUnit:
    """Spans of audio that one worker takes together, each with the id of what it belongs to."""

    name: str
    ids: tuple[str, ...]
    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.spans) > 0, f"work unit {self.name} has {len(self.ids)} ids"

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return sum(span.end_s - span.start_s for span in self.spans)


class Processor(Protocol):
    """Made once per actor; turns a unit's decoded spans, wav [S] or the error of each, into its part."""

    def __call__(self, unit: WorkUnit, wavs: Sequence[NDArray[np.float32] | AudioError]) -> pa.Table: ...


def part_uri(parts: str, name: str) -> str:
    """Where the part of a work unit lies."""
    return storage.join(parts, f"part-{name}.parquet")


def run_work_units(
    work_units: Sequence[WorkUnit],
    parts: str,
    processor: type[Processor],
    processor_args: dict[str, Any],
    quarantine: Callable[[WorkUnit, AudioError], pa.Table],
    cluster: ClusterConfig,
    report: ReportProgress,
) -> None:
    """Makes the part of every work unit that has none yet.

    Args:
        work_units: All units of the stage, with different names.
        parts: The folder of the part files.
        processor: A class importable on every worker; made there with `processor_args`.
        processor_args: Keyword arguments, small enough to send to every actor.
        quarantine: Makes the part of a unit that cannot be processed.
        cluster: How much of the cluster to use.
        report: Told of every unit that is done.

    Raises:
        TwistError: parts cannot be written, or the first round failed on every unit.
    """
    by_name = {unit.name: unit for unit in work_units}
    assert len(by_name) == len(work_units), "two work units have one name"
    pending = _without_part(by_name, parts)
    if not pending:
        return
    attempts = _Attempts(parts, processor, processor_args, cluster)
    finished = len(by_name) - len(pending)
    errors: dict[str, str] = {}
    for round_number in range(ROUNDS):
        for name, error in _run_round(pending, attempts, is_first=round_number == 0, cluster=cluster):
            if error is None:
                finished += 1
                report(finished, len(by_name), "units", f"{by_name[name].duration_s / 3600:.2f} h in the last one")
            else:
                errors[name] = error
        before, pending = pending, _without_part({unit.name: unit for unit in pending}, parts)
        if not pending:
            return
        if len(pending) == len(before) == len(by_name) and len(by_name) > 1:
            raise TwistError(
                f"every one of {len(by_name)} work units failed: {errors.get(pending[0].name, 'their workers died')}"
            )
    for unit in pending:
        detail = errors.get(unit.name, "its worker died or hung")
        storage.put_if_absent(part_uri(parts, unit.name), parquet.to_bytes(quarantine(unit, _quarantined(detail))))
        finished += 1
        report(finished, len(by_name), "units", f"unit {unit.name} quarantined: {detail}")


def _quarantined(detail: str) -> AudioError:
    return AudioError("quarantined", f"failed {ROUNDS} times: {detail}")


def _without_part(by_name: dict[str, WorkUnit], parts: str) -> list[WorkUnit]:
    done = set(storage.list_files(parts, ".parquet"))
    return [unit for name, unit in by_name.items() if f"part-{name}.parquet" not in done]


@dataclass(frozen=True)
class _Attempts:
    """What a worker needs to know to make and commit parts."""

    parts: str
    processor: type[Processor]
    processor_args: dict[str, Any]
    cluster: ClusterConfig


def _run_round(
    units: Sequence[WorkUnit], attempts: _Attempts, *, is_first: bool, cluster: ClusterConfig
) -> Iterator[tuple[str, str | None]]:
    """Yields (name, error or None) for each unit that was not lost with its worker."""
    import ray
    from ray.data import ActorPoolStrategy

    _connect()
    _quiet_ray_data()
    num_gpus = ray.cluster_resources().get("GPU", 0.0)
    actor_gpus = cluster.gpus_per_actor if num_gpus else 0.0
    per_device = num_gpus / actor_gpus if actor_gpus else ray.cluster_resources().get("CPU", 1.0)
    # After the first round only suspects are left: one at a time, so that none dies of its neighbour.
    most = min(len(units), cluster.max_actors or max(1, int(per_device))) if is_first else 1
    retries = RETRIES_IN_FIRST_ROUND if is_first else 0
    rows = ray.data.from_items([{"unit": pickle.dumps(unit)} for unit in units], override_num_blocks=len(units))
    with warnings.catch_warnings():
        # Retries can be bounded only through arguments that Ray calls deprecated and names no successor of.
        warnings.simplefilter("ignore", DeprecationWarning)
        decoded = rows.map(
            _Decode(cluster.unit_time_limit_s), num_cpus=1, max_retries=retries, concurrency=None if is_first else 1
        )
        results = decoded.map_batches(
            _ProcessAndCommit,
            fn_constructor_args=(attempts,),
            batch_size=1,
            batch_format="numpy",
            compute=ActorPoolStrategy(
                min_size=min(cluster.min_actors, most),
                max_size=most,
                max_tasks_in_flight_per_actor=2 if is_first else 1,
            ),
            num_cpus=cluster.cpus_per_actor,
            num_gpus=actor_gpus,
            max_restarts=-1,
            max_task_retries=retries,
        )
    for row in results.iter_rows():
        if row["fatal"]:
            raise TwistError(row["error"])
        yield row["name"], row["error"]


class _Decode:
    """Decodes one work unit to one flat array of samples; what cannot be decoded has a length of -1."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit: WorkUnit = pickle.loads(row["unit"])
        with _TimeLimit(self._time_limit_s):
            outcomes = list(read_spans(unit.spans))
        wavs = [outcome for outcome in outcomes if not isinstance(outcome, AudioError)]
        return {
            "unit": row["unit"],
            "samples": np.concatenate(wavs) if wavs else np.zeros(0, np.float32),
            "lengths": np.array([-1 if isinstance(o, AudioError) else len(o) for o in outcomes], np.int64),
            "errors": pickle.dumps([(o.reason, o.detail) for o in outcomes if isinstance(o, AudioError)]),
        }


class _ProcessAndCommit:
    """The actor: commits a part itself, since a third operator for that would cost a third of the throughput."""

    def __init__(self, attempts: _Attempts) -> None:
        self._attempts = attempts
        self._process: Processor = attempts.processor(**attempts.processor_args)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        unit: WorkUnit = pickle.loads(batch["unit"][0])
        wavs = _split(batch["samples"][0], batch["lengths"][0], pickle.loads(batch["errors"][0]))
        error, fatal = None, False
        try:
            with _TimeLimit(self._attempts.cluster.unit_time_limit_s):
                part = parquet.to_bytes(self._process(unit, wavs))
            storage.put_if_absent(part_uri(self._attempts.parts, unit.name), part)
        except TwistError as mistake:
            error, fatal = str(mistake), True
        except OSError as failure:
            # The unit is not to blame for a full disk or a bucket that is gone, and the next one would meet the same.
            error, fatal = f"cannot write {part_uri(self._attempts.parts, unit.name)}: {_describe(failure)}", True
        except Exception as failure:
            error = "".join(traceback.format_exception_only(failure)).strip() + _last_line(failure)
        return pa.table(
            {
                "name": pa.array([unit.name], pa.string()),
                "error": pa.array([error], pa.string()),
                "fatal": pa.array([fatal], pa.bool_()),
            }
        )


def _split(
    samples: NDArray[np.float32], lengths: NDArray[np.int64], errors: Sequence[tuple[str, str]]
) -> list[NDArray[np.float32] | AudioError]:
    """The inverse of what `_Decode` packs."""
    remaining_errors = iter(errors)
    outcomes: list[NDArray[np.float32] | AudioError] = []
    start = 0
    for length in lengths.tolist():
        if length < 0:
            outcomes.append(AudioError(*next(remaining_errors)))
        else:
            outcomes.append(samples[start : start + length])
            start += length
    return outcomes


def _describe(failure: OSError) -> str:
    return f"{failure.strerror} ({errno.errorcode.get(failure.errno, '')})" if failure.errno else str(failure)


def _last_line(failure: Exception) -> str:
    frames = traceback.extract_tb(failure.__traceback__)
    return f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


class _TimeLimit:
    """Ends this worker process where a block of code takes too long; nothing gentler stops a hung C library."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, os._exit, args=(1,))
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _connect() -> None:
    """Joins the cluster that a job runs on (RAY_ADDRESS), or starts one on this machine for the time of the command."""
    if not os.environ.get("RAY_ADDRESS"):
        # The core worker calls it an error that Ray Data passes its operators through the object store.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level="warning")
        return
    with _stderr_only_on_failure():
        ray.init(
            address="local",
            # An actor and a decode task need a core and a half between them, also where there is one core.
            num_cpus=max(2, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level="error",
        )


@contextlib.contextmanager
def _stderr_only_on_failure() -> Iterator[None]:
    """Holds back what Ray's C++ core writes while it starts, unless it fails to."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _quiet_ray_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A unit whose worker dies for good must not take the run with it: it is seen by its missing part.
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.ERROR)
