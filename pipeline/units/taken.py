"""What of a segment's audio becomes units: its longest stretch without damage, and what lies behind its stated end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.audio.read import END_TOLERANCE_S
from pipeline.records import SAMPLE_RATE_HZ, Dropped

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.audio.read import Clip, Span

# Key of a part's metadata: a JSON object of the segments that are not taken as planned.
DIFFERENCES = "differences"


@dataclass(frozen=True)
class Difference:
    """How a segment's audio differs from what was planned.

    Attributes:
        lost_s: Seconds that were planned and are not there, or damaged, or behind damage.
        reason, detail: Why, as in AudioError.
        found_s: Seconds that were taken behind the planned end.
        unread_s: Seconds behind these that would make the segment too long.
        remark: Which channels were left out.
    """

    lost_s: float = 0.0
    reason: str = ""
    detail: str = ""
    found_s: float = 0.0
    unread_s: float = 0.0
    remark: str | None = None

    def drops(self, segment_id: str, corpus: str) -> list[Dropped]:
        """The drops of parts of a segment that is kept."""
        drops = [Dropped(segment_id, corpus, self.reason, self.detail, self.lost_s, 0)] if self.lost_s else []
        if self.unread_s:
            detail = "more lies behind the stated end than fits into a segment"
            drops.append(Dropped(segment_id, corpus, "beyond_stated_end", detail, self.unread_s, 0))
        return drops


@dataclass(frozen=True)
class Taken:
    """A stretch of a segment: its wav [S] at 16 kHz, and where it begins and ends in its recording, in seconds."""

    wav: NDArray[np.float32]
    start_s: float
    end_s: float
    difference: Difference | None


def take(span: Span, clip: Clip) -> Taken:
    """Chooses the stretch of a segment's clip that becomes units."""
    planned_s = span.end_s - span.start_s
    if not clip.holes:
        found_s = clip.duration_s - planned_s
        if found_s <= END_TOLERANCE_S and not clip.unread_s and not clip.remark:
            return Taken(clip.wav, span.start_s, span.end_s, None)
        found_s = found_s if found_s > END_TOLERANCE_S else 0.0
        difference = Difference(found_s=found_s, unread_s=clip.unread_s, remark=clip.remark)
        return Taken(clip.wav, span.start_s, span.end_s + found_s, difference)
    whole, hole = clip.whole, clip.holes[0]
    start_s = span.start_s + whole.start / SAMPLE_RATE_HZ
    end_s = span.start_s + whole.stop / SAMPLE_RATE_HZ
    found_s = max(0.0, clip.duration_s - planned_s)
    found_s = found_s if found_s > END_TOLERANCE_S else 0.0
    lost_s = planned_s + found_s - (end_s - start_s)
    detail = f"{hole.detail}, at {span.start_s + hole.start_s:.1f} s"
    difference = Difference(max(0.0, lost_s), hole.reason, detail, found_s, clip.unread_s, clip.remark)
    return Taken(clip.wav[whole], start_s, start_s + planned_s + found_s - difference.lost_s, difference)


def differences_by_id(ids: Sequence[str], taken: Sequence[object]) -> dict[str, Difference]:
    """The differences of the segments of which a stretch was taken, and not as planned."""
    return {
        id: stretch.difference
        for id, stretch in zip(ids, taken, strict=True)
        if isinstance(stretch, Taken) and stretch.difference
    }


def to_metadata(differences: dict[str, Difference]) -> dict[str, str]:
    """Differences by segment id, as metadata of a part; they stand in no column, since few segments have any."""
    if not differences:
        return {}
    return {DIFFERENCES: json.dumps({id: asdict(difference) for id, difference in differences.items()})}


def differences_of(part: pa.Table) -> dict[str, Difference]:
    """The same, of a part that was read."""
    told: dict[str, dict[str, Any]] = json.loads((part.schema.metadata or {}).get(DIFFERENCES.encode(), b"{}"))
    return {id: Difference(**difference) for id, difference in told.items()}
