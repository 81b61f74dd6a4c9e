"""Searches recordings for speech on many workers, if their corpus does not say where it is.

Recording -> slices -> chunks -> RUN/segments/speech/part-*.parquet -> Speech
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.audio.read import END_TOLERANCE_S, AudioError, Clip, Hole
from pipeline.files import parquet, storage
from pipeline.runs import SEGMENTS, stage_of
from pipeline.segments.cut import Regions, divide
from pipeline.work import dataflow
from pipeline.work.plan import ChunkNames, WorkPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.progress import ReportProgress
    from pipeline.records import Recording
    from pipeline.segments.config import SegmentConfig
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

SEARCH_SCHEMA = pa.schema(
    [
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("channel", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("work_unit", pa.string()),
        ("reads_on_s", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Speech:
    """Where speech was found in a recording.

    Attributes:
        regions: (on, off) seconds.
        holes: What could not be searched, in seconds from the recording's start; the last may be what the file lacks of
            the stated length.
        beyond_s: Seconds behind the stated length that were searched too.
        unread_s: Seconds behind these that were not.
    """

    regions: Regions = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    beyond_s: float = 0.0
    unread_s: float = 0.0


def is_to_be_searched(recording: Recording, config: SegmentConfig) -> bool:
    """Whether a recording must be searched for speech."""
    if recording.voice_activity is not None:
        return False
    return config.detect_speech == "all" or (config.detect_speech == "long" and recording.duration_s > config.max_s)


def search(
    stage_uri: str,
    recordings: Iterable[Recording],
    config: SegmentConfig,
    cluster: ClusterConfig,
    report: ReportProgress,
) -> tuple[dict[str, Any], Iterator[tuple[str, Speech]]]:
    """Searches recordings for speech and writes a part file per chunk.

    Returns:
        What the work took, for stage.json; and ids and speech in the given order.
    """
    plan = _plan(recordings, config.work_unit_minutes * 60)
    if not len(plan):
        return {}, iter(())
    parts = storage.join(stage_uri, stage_of(SEGMENTS).parts)
    threshold = config.speech_threshold
    work = dataflow.run_chunks(plan, parts, FindSpeech, {"threshold": threshold}, _all_failed, cluster, report)
    return work, _read([dataflow.part_uri(parts, name) for name in plan.names])


def _plan(recordings: Iterable[Recording], chunk_s: float) -> WorkPlan:
    """Chunks of whole recordings; one longer than a chunk is searched in slices."""
    names = ChunkNames(chunk_s)

    def tables() -> Iterator[pa.Table]:
        columns: dict[str, list[object]] = {name: [] for name in SEARCH_SCHEMA.names}
        for recording in recordings:
            for start_s, end_s in divide((0.0, recording.duration_s), chunk_s):
                name = names.next(recording.corpus, end_s - start_s)
                reads_on_s = chunk_s if end_s == recording.duration_s else None
                row = (recording.recording_id, recording.uri, recording.channel, start_s, end_s, name, reads_on_s)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
            if len(columns["uri"]) >= parquet.ROW_GROUP_ROWS:
                yield pa.table(columns, schema=SEARCH_SCHEMA)
                columns = {name: [] for name in SEARCH_SCHEMA.names}
        yield pa.table(columns, schema=SEARCH_SCHEMA)

    return WorkPlan.of(pa.concat_tables(tables()).combine_chunks(), "recording_id")


class FindSpeech:
    """Searches the recordings of a chunk for speech."""

    def __init__(self, threshold: float) -> None:
        import torch  # not above: who reads segments, as `twist inspect` does, needs none

        from pipeline.audio.voice_activity import SpeechDetector

        torch.set_num_threads(1)
        self._detect = SpeechDetector(threshold)

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        return _speech_table(chunk, clips, [[] if isinstance(c, AudioError) else self._detect(c.wav) for c in clips])


def _all_failed(chunk: Chunk, error: AudioError) -> pa.Table:
    return _speech_table(chunk, [error] * len(chunk.ids), [[]] * len(chunk.ids))


def _speech_table(chunk: Chunk, clips: Sequence[Clip | AudioError], found: Sequence[Regions]) -> pa.Table:
    errors = [clip if isinstance(clip, AudioError) else None for clip in clips]
    heard = [None if isinstance(clip, AudioError) else clip for clip in clips]
    return pa.table(
        {
            "recording_id": pa.array(chunk.ids, pa.string()),
            "start_s": pa.array([span.start_s for span in chunk.spans], pa.float64()),
            "end_s": pa.array([span.end_s for span in chunk.spans], pa.float64()),
            "regions": pa.array(
                [clip and json.dumps(regions) for clip, regions in zip(heard, found, strict=True)], pa.string()
            ),
            "holes": pa.array([clip and json.dumps(list(map(asdict, clip.holes))) for clip in heard], pa.string()),
            "read_s": pa.array([clip and clip.duration_s for clip in heard], pa.float64()),
            "unread_s": pa.array([clip and clip.unread_s for clip in heard], pa.float64()),
            "drop_reason": pa.array([error and error.reason for error in errors], pa.string()),
            "drop_detail": pa.array([error and error.detail for error in errors], pa.string()),
        }
    )


def _read(parts: Sequence[str]) -> Iterator[tuple[str, Speech]]:
    rows = (row for part in parquet.read_many(parts) for row in part.to_pylist())
    for recording_id, slices in itertools.groupby(rows, key=lambda row: row["recording_id"]):
        regions: Regions = []
        holes: list[Hole] = []
        beyond_s = unread_s = 0.0
        for row in slices:
            start_s, length_s = row["start_s"], row["end_s"] - row["start_s"]
            # A silent slice of a long recording is normal, not a failure.
            if row["drop_reason"] not in (None, "silent"):
                holes.append(Hole(start_s, row["end_s"], row["drop_reason"], row["drop_detail"]))
            for hole in json.loads(row["holes"] or "[]"):
                start, end = start_s + hole["start_s"], start_s + hole["end_s"]
                holes.append(Hole(start, end, hole["reason"], hole["detail"]))
            regions += [(start_s + on_s, start_s + off_s) for on_s, off_s in json.loads(row["regions"] or "[]")]
            beyond_s = max(0.0, (row["read_s"] or 0.0) - length_s)
            unread_s = row["unread_s"] or 0.0
        # A sample or two are rounding.
        yield recording_id, Speech(regions, holes, beyond_s if beyond_s > END_TOLERANCE_S else 0.0, unread_s)
