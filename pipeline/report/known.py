"""What a run knows of the few recordings that clips are cut from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import stage
from pipeline.corpora.manifest import iterate_tables
from pipeline.files import parquet, storage
from pipeline.language.filter import DECISIONS
from pipeline.report.wanted import recordings_of
from pipeline.runs import LANGUAGE, SEGMENTS
from pipeline.segments.segment import open_segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.report.wanted import Wanted

OF_RECORDING = (
    "recording_id",
    "corpus",
    "uri",
    "duration_s",
    "sample_rate_hz",
    "num_channels",
    "channel",
    "language",
    "speaker",
    "text",
    "voice_activity",
)


@dataclass(frozen=True)
class Known:
    """What a run knows of the recordings that clips are cut from, by id; segments by recording, in order."""

    recordings: dict[str, dict[str, Any]]
    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    segments: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def look_up(run: str, wanted: Sequence[Wanted]) -> Known:
    """Reads what is known of the recordings of some clips, a row group at a time.

    Raises:
        TwistError: a table is damaged.
    """
    ids = pa.array(sorted(recordings_of(wanted)), pa.string())

    def of(table: pa.Table) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = table.filter(pc.is_in(table["recording_id"], ids)).to_pylist()
        return rows

    recordings = (row for table in iterate_tables(run, OF_RECORDING) for row in of(table))
    known = Known({row["recording_id"]: row for row in recordings})
    if stage.is_finished(run, LANGUAGE):
        for table in parquet.iterate(storage.join(run, LANGUAGE, DECISIONS)):
            known.decisions.update({row["recording_id"]: row for row in of(table)})
    if stage.is_finished(run, SEGMENTS):
        with open_segments(run) as groups:
            for table in groups:
                for row in of(table):
                    known.segments.setdefault(row["recording_id"], []).append(row)
    return known
