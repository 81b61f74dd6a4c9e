"""Progress of the work on a stage's chunks, for the progress bar, stage.json, `twist inspect` and Prometheus.

PARTS/progress.json    rewritten regularly during the work; deleted at its end
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRESS = "progress.json"
WRITE_EVERY_S = 20.0
# Older progress was left by a command that is gone.
STALE_AFTER_S = 180.0
MAX_CHUNKS_TOLD = 20
STEPS = ("decode", "encode", "commit")


@dataclass
class WorkProgress:
    """What this command has done; the work of earlier commands is counted separately.

    Attributes:
        num_chunks: Chunks of the stage.
        hours: Hours of audio in them.
        num_done_before: Chunks that were done when the command began.
        hours_done_before: Hours of audio in those.
        num_done: Chunks done since.
        hours_done: Hours of audio in those.
        worker_seconds: Seconds spent on each step, summed over all workers.
        dropped: Number of items dropped, by reason.
        starved_s: Seconds during which an actor was idle because nothing was decoded yet.
        backed_up_s: Seconds during which decoded chunks waited because no actor was free.
        begun_at: When the command began, in seconds since 1970.
        in_hand: Chunks that a worker has, and since when; of these the oldest are written.
        quarantined: Chunks that were given up, and their last errors; of these the first are written.
    """

    num_chunks: int
    hours: float
    num_done_before: int = 0
    hours_done_before: float = 0.0
    num_done: int = 0
    hours_done: float = 0.0
    worker_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    dropped: Counter[str] = field(default_factory=Counter)
    starved_s: float = 0.0
    backed_up_s: float = 0.0
    begun_at: float = field(default_factory=time.time)
    in_hand: dict[str, float] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)

    def add(self, hours: float, worker_seconds: Mapping[str, float], dropped: Mapping[str, int]) -> None:
        """Adds a finished chunk: its hours of audio, seconds by step and dropped items by reason."""
        self.num_done += 1
        self.hours_done += hours
        for step, seconds in worker_seconds.items():
            self.worker_seconds[step] += seconds
        self.dropped.update(dropped)

    def hours_per_hour(self, now: float) -> float:
        """Hours of audio processed per hour since the command began."""
        return self.hours_done / max(now - self.begun_at, 1e-9) * 3600

    def seconds_left(self, now: float) -> float | None:
        """Seconds until all is done at the pace so far; None until the first chunk is done."""
        hours_left = max(0.0, self.hours - self.hours_done_before - self.hours_done)  # sums of floats
        return 3600 * hours_left / self.hours_per_hour(now) if self.hours_done else None

    def shares(self) -> dict[str, float]:
        """Each step's share of the workers' time, from 0 to 1."""
        total = sum(self.worker_seconds.values())
        return {step: seconds / total if total else 0.0 for step, seconds in self.worker_seconds.items()}

    def limit(self) -> str:
        """The step that the others wait for."""
        if self.starved_s > self.backed_up_s:
            return "decode"
        return "commit" if self.worker_seconds["commit"] > self.worker_seconds["encode"] else "encode"

    def as_dict(self, now: float) -> dict[str, Any]:
        """All fields and derived figures, ready for JSON."""
        return {
            **asdict(self),
            "dropped": dict(sorted(self.dropped.items())),
            "in_hand": dict(sorted(self.in_hand.items(), key=lambda chunk: chunk[1])[:MAX_CHUNKS_TOLD]),
            "quarantined": dict(list(self.quarantined.items())[:MAX_CHUNKS_TOLD]),
            "hours_per_hour": round(self.hours_per_hour(now), 1),
            "shares": {step: round(share, 3) for step, share in self.shares().items()},
            "limit": self.limit(),
            "seconds_left": self.seconds_left(now),
            "summary": self.as_text(now),
            "told_at": now,
        }

    def as_text(self, now: float) -> str:
        """A one-line summary for people."""
        done = self.hours_done_before + self.hours_done
        shares = " ".join(f"{step} {share:.0%}" for step, share in self.shares().items())
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common(4))
        pace = f"{self.hours_per_hour(now):,.0f} h/h"
        line = f"{done:,.2f} of {self.hours:,.2f} h at {pace}, {shares}, {self.limit()} limits"
        return f"{line}, dropped {dropped}" if dropped else line


class ProgressFile:
    """Writes progress to the folder of the part files, for other commands to read."""

    def __init__(self, parts: str) -> None:
        self._uri = storage.join(parts, PROGRESS)
        self._written_at = 0.0

    def write(self, progress: WorkProgress, now: float) -> None:
        """Writes progress at most every WRITE_EVERY_S; a failing disk or store is ignored here."""
        if now - self._written_at < WRITE_EVERY_S:
            return
        self._written_at = now
        try:
            storage.write_bytes(self._uri, (json.dumps(progress.as_dict(now), indent=2) + "\n").encode())
        except OSError:
            return

    def remove(self) -> None:
        """Deletes the file; call this when all work is done."""
        storage.delete(self._uri)


def read_progress(parts: str, now: float) -> dict[str, Any] | None:
    """Reads the last progress written to `parts` and adds `is_stale`; None if there is no readable progress."""
    try:
        told: dict[str, Any] = json.loads(storage.read_bytes(storage.join(parts, PROGRESS)))
    except (FileNotFoundError, ValueError):
        return None
    return {**told, "is_stale": now - told["told_at"] > STALE_AFTER_S}
