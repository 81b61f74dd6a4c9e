"""How the work on a stage's chunks gets on: for the eye, for stage.json, for `twist inspect` and for Prometheus.

PARTS/progress.json    written anew now and then while work goes on; gone when all is done
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
# Told this long ago, progress is that of a command that has ended.
STALE_AFTER_S = 180.0
STEPS = ("decode", "encode", "commit")


@dataclass
class WorkProgress:
    """Counts of this command; what earlier ones did is counted apart.

    Attributes:
        num_chunks: Chunks of the stage.
        hours: Hours of audio in them.
        num_done_before: Chunks that were done as the command began.
        hours_done_before: Their hours.
        num_done: Chunks done since.
        hours_done: Their hours.
        worker_seconds: What workers spent on each step, added up over all of them.
        dropped: Items left out, by reason.
        starved_s: Seconds for which an actor had nothing to do since nothing was decoded yet.
        backed_up_s: Seconds for which decoded chunks waited and no actor was free.
        begun_at: Seconds since 1970.
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

    def add(self, hours: float, worker_seconds: Mapping[str, float], dropped: Mapping[str, int]) -> None:
        """Counts a chunk that is done."""
        self.num_done += 1
        self.hours_done += hours
        for step, seconds in worker_seconds.items():
            self.worker_seconds[step] += seconds
        self.dropped.update(dropped)

    def hours_per_hour(self, now: float) -> float:
        """Hours of audio done in an hour, since the command began."""
        return self.hours_done / max(now - self.begun_at, 1e-9) * 3600

    def seconds_left(self, now: float) -> float | None:
        """Seconds until all is done, at the pace so far; None before anything is."""
        hours_left = self.hours - self.hours_done_before - self.hours_done
        return 3600 * hours_left / self.hours_per_hour(now) if self.hours_done else None

    def shares(self) -> dict[str, float]:
        """Each step's share of the time that workers spent."""
        total = sum(self.worker_seconds.values())
        return {step: seconds / total if total else 0.0 for step, seconds in self.worker_seconds.items()}

    def limit(self) -> str:
        """The step that the others wait for."""
        if self.starved_s > self.backed_up_s:
            return "decode"
        return "commit" if self.worker_seconds["commit"] > self.worker_seconds["encode"] else "encode"

    def as_dict(self, now: float) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {
            **asdict(self),
            "dropped": dict(sorted(self.dropped.items())),
            "hours_per_hour": round(self.hours_per_hour(now), 1),
            "shares": {step: round(share, 3) for step, share in self.shares().items()},
            "limit": self.limit(),
            "seconds_left": self.seconds_left(now),
            "summary": self.as_text(now),
            "told_at": now,
        }

    def as_text(self, now: float) -> str:
        """One line for the eye."""
        done = self.hours_done_before + self.hours_done
        shares = " ".join(f"{step} {share:.0%}" for step, share in self.shares().items())
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common(4))
        pace = f"{self.hours_per_hour(now):,.0f} h/h"
        line = f"{done:,.2f} of {self.hours:,.2f} h at {pace}, {shares}, {self.limit()} limits"
        return f"{line}, dropped {dropped}" if dropped else line


class ProgressFile:
    """Tells progress to whoever looks into the folder of the parts."""

    def __init__(self, parts: str) -> None:
        self._uri = storage.join(parts, PROGRESS)
        self._written_at = 0.0

    def write(self, progress: WorkProgress, now: float) -> None:
        """Writes it, unless that was done a moment ago. A store that fails does not end the work over this."""
        if now - self._written_at < WRITE_EVERY_S:
            return
        self._written_at = now
        try:
            storage.write_bytes(self._uri, (json.dumps(progress.as_dict(now), indent=2) + "\n").encode())
        except OSError:
            return

    def remove(self) -> None:
        """At the end of all work."""
        storage.delete(self._uri)


def read_progress(parts: str, now: float) -> dict[str, Any] | None:
    """What was last told of the work below `parts`, with `is_stale`; None where nothing was."""
    try:
        told: dict[str, Any] = json.loads(storage.read_bytes(storage.join(parts, PROGRESS)))
    except (FileNotFoundError, ValueError):
        return None
    return {**told, "is_stale": now - told["told_at"] > STALE_AFTER_S}
