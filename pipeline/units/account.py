"""What became of the segments of a stage that writes a part a chunk, with a row a segment: units, pitch, style."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.read import AudioError
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.records import Dropped
from pipeline.stage import LengthDifferences, StageCounts, Tally
from pipeline.units.taken import differences_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pipeline.units.taken import Taken
    from pipeline.work.plan import Chunk

logger = logging.getLogger(__name__)


def segment_columns(
    chunk: Chunk, outcomes: Sequence[object], taken: Sequence[Taken | None]
) -> dict[str, Sequence[object]]:
    """The columns that all such parts have, of a chunk's segments.

    Args:
        chunk: The segments.
        outcomes: What became of each: an AudioError, if it is dropped.
        taken: The stretch that was taken of each; None if it is dropped.
    """
    errors = [outcome if isinstance(outcome, AudioError) else None for outcome in outcomes]
    return {
        "segment_id": chunk.ids,
        "recording_id": [id.rpartition("#")[0] for id in chunk.ids],
        "start_s": [(stretch or span).start_s for stretch, span in zip(taken, chunk.spans, strict=True)],
        "end_s": [(stretch or span).end_s for stretch, span in zip(taken, chunk.spans, strict=True)],
        "drop_reason": [error and error.reason for error in errors],
        "drop_detail": [error and error.detail for error in errors],
    }


class SegmentAccount:
    """Counts, hours and drops of segments, part by part.

    Attributes:
        kept: Segments that were kept.
        dropped: Segments, and stretches of them, that were not, in the order of parts.
        lengths: Segments that are longer or shorter than planned.
        num_with_channels_left_out: Segments of which not all channels were mixed.
    """

    def __init__(self) -> None:
        self.kept = Tally()
        self.dropped: list[Dropped] = []
        self.lengths = LengthDifferences()
        self.num_with_channels_left_out = 0
        self._total = Tally()

    def add(self, part: pa.Table) -> None:
        """Adds a part: a table with `segment_columns`."""
        durations = pc.subtract(part["end_s"], part["start_s"])
        is_kept = pc.is_null(part["drop_reason"])
        self._total += Tally(len(part), pc.sum(durations).as_py() / 3600)
        kept_durations = durations.filter(is_kept)
        self.kept += Tally(len(kept_durations), (pc.sum(kept_durations).as_py() or 0.0) / 3600)
        columns = ["segment_id", "recording_id", "start_s", "end_s", "drop_reason", "drop_detail"]
        for row in part.select(columns).filter(pc.invert(is_kept)).to_pylist():
            corpus = row["recording_id"].partition("/")[0]
            duration_s = row["end_s"] - row["start_s"]
            self.dropped.append(Dropped(row["segment_id"], corpus, row["drop_reason"], row["drop_detail"], duration_s))
        for id, difference in differences_of(part).items():
            of_segment = difference.drops(id, id.partition("/")[0])
            self.dropped += of_segment
            self._total += Tally(0, sum(drop.duration_s for drop in of_segment) / 3600)
            missing_s = difference.lost_s if difference.reason == "truncated" else 0.0
            self.lengths.add(difference.found_s + difference.unread_s, missing_s)
            self.num_with_channels_left_out += difference.remark is not None

    def counts(self, stage_uri: str, num_planned: int, failing: str) -> StageCounts:
        """The sums of all parts.

        Args:
            stage_uri: The stage's folder, for messages.
            num_planned: Segments of the plan.
            failing: What none of the segments did, if none was kept, for the message.

        Raises:
            TwistError: there are other segments than planned, or none was kept.
        """
        if self._total.items != num_planned:
            raise TwistError(
                f"{stage_uri} holds {self._total.items} segments where the plan has {num_planned}: a part is missing "
                f"or does not belong here; run the command again, and `twist inspect --verify` if that does not help"
            )
        if not self.kept.items:
            examples = "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in self.dropped[:3])
            raise TwistError(f"none of {self._total.items} segments {failing}: {examples}")
        return StageCounts.of(self._total, self.kept, self.dropped)


def work_and_account(
    work: Callable[[], dict[str, Any]],
    account: Callable[[dict[str, Any]], None],
    part_uris: Callable[[], Iterable[str]],
) -> None:
    """Makes the parts, then reads them all; those that a failing disk has damaged are made once more.

    Args:
        work: Makes the parts that are not there yet, and tells what that took.
        account: Reads all parts and finishes the stage; takes what `work` told.
        part_uris: The parts that there are.
    """
    took = work()
    try:
        account(took)
    except parquet.DamagedFileError as damage:
        logger.warning("%s; its chunk is done once more", damage)
        for uri in part_uris():
            try:
                parquet.read(uri)
            except parquet.DamagedFileError:
                storage.delete(uri)
        work()
        account(took)
