"""Which chunk is worked on next, and what a failure means for it and for the run.

A chunk that fails is queued again, behind those not tried yet. After its second failure it is a suspect: kept back
until all others are done and then run alone, so that it cannot take a neighbour down, nor be blamed for one. After its
third failure it is given up. A chunk whose machine went away is not blamed, unless that keeps happening.

If only failures come back, a chunk that succeeded before is tried again. If that fails too, or there is none, the run
stops: the data is not at fault.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from pipeline.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.work.plan import Chunk

MAX_FAILURES = 3
MAX_MACHINES_LOST = 5
# If this many different chunks fail in a row, or this many workers fail to start, the cause lies elsewhere.
MAX_FAILURES_IN_A_ROW = 20


class FailurePolicy:
    """The chunks still to be worked on, in the order in which to take them.

    Args:
        new: Chunks that were not tried yet.
        num_new: The number of these.
        known_to_work: A chunk that an earlier run finished, if there is one. Each chunk that succeeds replaces it until
            it is needed.
    """

    def __init__(self, new: Iterator[Chunk], num_new: int, known_to_work: Chunk | None) -> None:
        self._new = new
        self._num_new = num_new
        self._again: deque[Chunk] = deque()
        self._suspects: deque[Chunk] = deque()
        self._known_to_work = known_to_work
        self._is_trying_known = False
        self._num_failures: Counter[str] = Counter()
        self._num_machines_lost: Counter[str] = Counter()
        self._first_failures_in_a_row = 0
        self._failed_starts_in_a_row = 0

    @property
    def num_queued(self) -> int:
        """Chunks that may be taken now."""
        return self._num_new + len(self._again)

    @property
    def num_suspects(self) -> int:
        """Chunks kept back until nothing else is queued or in work."""
        return len(self._suspects)

    def take(self) -> Chunk:
        """Takes the next chunk: new ones before retries, so that a transient fault can clear."""
        if not self._num_new or (self._again and self._again[0] is self._known_to_work):
            return self._again.popleft()
        self._num_new -= 1
        return next(self._new)

    def queue_one_suspect(self) -> None:
        """Queues the next suspect; call this only when nothing else is queued or in work."""
        self._again.append(self._suspects.popleft())

    def succeed(self, chunk: Chunk) -> bool:
        """Notes that a chunk is done; returns False if it was done before and was only a test."""
        self._first_failures_in_a_row = 0
        if chunk is self._known_to_work:
            self._is_trying_known = False
            return False
        if not self._is_trying_known:
            self._known_to_work = chunk
        return True

    def fail(self, chunk: Chunk, error: str) -> str | None:
        """Queues a failed chunk again, or keeps it back as a suspect.

        Returns:
            `error` if the chunk is given up; else None.

        Raises:
            RunError: only failures come back, even from a chunk that is known to work.
        """
        self._num_failures[chunk.name] += 1
        if self._num_failures[chunk.name] == 1:  # suspects, which run at the end, may well fail in a row
            self._first_failures_in_a_row += 1
        if chunk is self._known_to_work:
            raise RunError(
                f"{MAX_FAILURES_IN_A_ROW} chunks failed in a row, and then {chunk.name}, which had been done "
                f"before, with: {error}"
            )
        if self._first_failures_in_a_row >= MAX_FAILURES_IN_A_ROW and not self._is_trying_known:
            if self._known_to_work is None:
                raise RunError(f"{MAX_FAILURES_IN_A_ROW} chunks failed in a row, the last with: {error}")
            self._is_trying_known = True
            self._again.appendleft(self._known_to_work)
        if self._num_failures[chunk.name] == MAX_FAILURES:
            return error
        if self._num_failures[chunk.name] == MAX_FAILURES - 1:
            self._suspects.append(chunk)
        else:
            self._again.append(chunk)
        return None

    def lose(self, chunk: Chunk) -> str | None:
        """Queues a chunk whose machine went away; every MAX_MACHINES_LOST times it counts as a failure.

        Returns and raises as `fail` does.
        """
        self._num_machines_lost[chunk.name] += 1
        if self._num_machines_lost[chunk.name] % MAX_MACHINES_LOST == 0:
            return self.fail(chunk, f"{MAX_MACHINES_LOST} machines went away with it")
        self._again.append(chunk)
        return None

    def worker_started(self) -> None:
        """Notes that a worker is ready for chunks."""
        self._failed_starts_in_a_row = 0

    def worker_did_not_start(self, error: str) -> None:
        """Notes that a worker died before it was ready.

        Raises:
            RunError: MAX_FAILURES_IN_A_ROW workers in a row did not start.
        """
        self._failed_starts_in_a_row += 1
        if self._failed_starts_in_a_row == MAX_FAILURES_IN_A_ROW:
            raise RunError(f"no worker can be started: {error}") from None
