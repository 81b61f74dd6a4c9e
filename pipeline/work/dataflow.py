"""Streams chunks through the machines of a Ray cluster.

    Chunk -> decode (tasks, on CPUs) -> process and commit (actors, on GPUs if there are any) -> part file

The name of a part file follows from its chunk, and the actor that makes the part commits it whole. So a chunk that is
processed twice leaves one part, and a restarted run sees from a listing what is left to do.

A chunk that fails (an exception, or its worker died or hung) is retried later by another actor; the actor that it
failed in is ended, as that may be what is broken. A chunk that keeps failing is quarantined: its part then holds a drop
reason for every item. failures.py decides what is retried and when the run stops instead.

This is a loop over Ray tasks and actors rather than Ray Data: there, a chunk that kills its worker can stop the whole
pipeline, and future versions will not let us bound the number of retries.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.audio.read import AudioError
from pipeline.errors import RunError, TwistError
from pipeline.files import parquet, storage
from pipeline.runs import part_file
from pipeline.work.driver import Outcome, Workers
from pipeline.work.failures import MAX_FAILURES, FailurePolicy
from pipeline.work.progress import ProgressFile, WorkProgress
from pipeline.work.worker import Processor, part_uri

if TYPE_CHECKING:
    from pipeline.audio.read import Span
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk, WorkPlan

__all__ = ["Processor", "part_uri", "run_chunks"]

# Metadata of the part file of a chunk that was given up.
QUARANTINED = {b"quarantined": b"yes"}
MAX_PARTS_LOOKED_AT = 100
# Of each corpus, chunks whose first and last audio tell whether its place can be read.
WITNESS_CHUNKS = 8


def run_chunks(
    plan: WorkPlan,
    parts: str,
    processor: type[Processor],
    processor_args: dict[str, Any],
    quarantine: Callable[[Chunk, AudioError], pa.Table],
    cluster: ClusterConfig,
    report: ReportProgress,
) -> dict[str, Any]:
    """Makes the part file of every chunk that has none yet.

    Args:
        plan: All chunks of the stage, with unique names.
        parts: The folder of the part files.
        processor: A class that every worker can import; each actor makes one with `processor_args`.
        processor_args: Keyword arguments, small enough to send to every actor.
        quarantine: Makes the part of a chunk that is given up.
        cluster: How much of the cluster to use.
        report: Called after every chunk.

    Returns:
        WorkProgress.as_dict, for stage.json; empty if there was nothing left to do.

    Raises:
        TwistError: the processor cannot be made.
        RunError: a disk or store fails, no worker can be started, or only failures come back.
    """
    assert len(set(plan.names)) == len(plan), "two chunks have one name"
    done = set(storage.list_files(parts, ".parquet"))
    pending = [number for number, name in enumerate(plan.names) if part_file(name) not in done]
    if not pending:
        return {}
    hours = float(plan.durations_s.sum()) / 3600
    hours_before = hours - float(plan.durations_s[pending].sum()) / 3600
    progress = WorkProgress(len(plan), hours, len(plan) - len(pending), hours_before)
    progress_file = ProgressFile(parts)
    failed: list[Outcome] = []
    known_to_work = _one_that_was_done(plan, parts, done)
    chunks = FailurePolicy((plan[number] for number in pending), len(pending), known_to_work)
    witnesses = _Witnesses(plan)
    # Also while the first chunks are under way, which takes minutes, or one hangs.
    tell = functools.partial(_write, progress, progress_file)
    workers = Workers(parts, processor, processor_args, cluster, chunks, progress, witnesses.of, tell)
    with contextlib.closing(workers):
        metrics = _Metrics(processor.__name__, len(pending))
        for outcome in workers.run():
            if outcome.error is not None:
                failed.append(outcome)
                progress.quarantined[outcome.chunk.name] = outcome.error
            else:
                for account in (progress, metrics):
                    account.add(outcome.chunk.duration_s / 3600, outcome.worker_seconds, outcome.dropped)
                _tell(progress, progress_file, report)
        if failed and progress.num_done == progress.num_done_before == 0:
            raise RunError(f"every one of {len(plan)} chunks failed, the last with: {failed[-1].error}")
        for outcome in failed:
            error = AudioError("quarantined", f"failed {MAX_FAILURES} times: {outcome.error}")
            table = quarantine(outcome.chunk, error)
            part = parquet.to_bytes(table.replace_schema_metadata({**(table.schema.metadata or {}), **QUARANTINED}))
            storage.put_if_absent(part_uri(parts, outcome.chunk.name), part)
            for account in (progress, metrics):
                account.add(outcome.chunk.duration_s / 3600, {}, {"quarantined": len(outcome.chunk.ids)})
            _tell(progress, progress_file, report)
    progress_file.remove()
    return progress.as_dict(time.time())


def _write(progress: WorkProgress, file: ProgressFile) -> None:
    file.write(progress, time.time())


def _tell(progress: WorkProgress, file: ProgressFile, report: ReportProgress) -> None:
    now = time.time()
    file.write(progress, now)
    report(progress.num_done_before + progress.num_done, progress.num_chunks, "chunks", progress.as_text(now))


class _Metrics:
    """Prometheus metrics, exported by Ray as ray_twist_... with the processor's name as a tag."""

    def __init__(self, processor: str, num_chunks: int) -> None:
        from ray.util.metrics import Counter as Total

        tags = {"processor": processor}
        self._chunks = Total("twist_chunks_done", "Chunks that were done.", ("processor",))
        self._hours = Total("twist_audio_hours_done", "Hours of audio in these.", ("processor",))
        self._seconds = Total("twist_worker_seconds", "Seconds that workers spent.", ("processor", "step"))
        self._dropped = Total("twist_items_dropped", "Items that were left out.", ("processor", "reason"))
        # Raised once, and no gauge: Ray 2.60 exports a gauge only in the interval in which it is set.
        planned = Total("twist_chunks_planned", "Chunks that commands began with.", ("processor",))
        for metric in (planned, self._chunks, self._hours, self._seconds, self._dropped):
            metric.set_default_tags(tags)
        planned.inc(num_chunks)

    def add(self, hours: float, worker_seconds: Mapping[str, float], dropped: Mapping[str, int]) -> None:
        """Adds a finished chunk to the counters, as WorkProgress has it."""
        self._chunks.inc(1)
        self._hours.inc(hours)
        for step, seconds in worker_seconds.items():
            if seconds > 0:
                self._seconds.inc(seconds, {"step": step})
        for reason, count in dropped.items():
            self._dropped.inc(count, {"reason": reason})


class _Witnesses:
    """Some audio of each corpus, which is tried where other audio of it fails (audio/places.py)."""

    def __init__(self, plan: WorkPlan) -> None:
        self._plan = plan
        self._chunks: dict[str, list[int]] = {}
        for number, name in enumerate(plan.names):
            self._chunks.setdefault(_corpus_of(name), []).append(number)
        self._uris: dict[str, list[str]] = {}

    def of(self, chunk: Chunk) -> list[str]:
        """URIs from up to WITNESS_CHUNKS chunks, spread over the corpus of a chunk."""
        corpus = _corpus_of(chunk.name)
        if corpus not in self._uris:
            numbers = self._chunks[corpus]
            chosen = numbers[:: -(-len(numbers) // WITNESS_CHUNKS)]
            spans = (span for number in chosen for span in self._ends(self._plan[number]))
            self._uris[corpus] = list(dict.fromkeys(span.uri for span in spans))
        return self._uris[corpus]

    def _ends(self, chunk: Chunk) -> tuple[Span, Span]:
        return chunk.spans[0], chunk.spans[-1]


def _corpus_of(name: str) -> str:
    return name.rpartition("-")[0]


def _one_that_was_done(plan: WorkPlan, parts: str, done: set[str]) -> Chunk | None:
    """A chunk that an earlier run processed successfully, if there is one among the first parts."""
    finished = (number for number, name in enumerate(plan.names) if part_file(name) in done)
    for number in itertools.islice(finished, MAX_PARTS_LOOKED_AT):
        with contextlib.suppress(TwistError), parquet.RowGroups(part_uri(parts, plan.names[number])) as part:
            if not QUARANTINED.items() <= part.metadata.items():
                return plan[number]
    return None
