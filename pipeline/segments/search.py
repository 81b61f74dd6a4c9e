"""Searches recordings for speech on many workers, if their corpus does not say where it is.

Recording -> slices -> chunks -> RUN/segments/speech/part-*.parquet -> Speech
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.audio.read import AudioError
from pipeline.files import parquet, storage
from pipeline.runs import SEGMENTS, stage_of
from pipeline.segments.cut import Regions, divide
from pipeline.work import dataflow
from pipeline.work.plan import ChunkNames, WorkPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

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
    ]
)


@dataclass(frozen=True)
class Speech:
    """Where speech was found in a recording, or in those of its slices that could be searched.

    Attributes:
        regions: (on, off) seconds.
        failures: For each slice that could not be searched, its error and its length in seconds.
    """

    regions: Regions = field(default_factory=list)
    failures: list[tuple[AudioError, float]] = field(default_factory=list)


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
) -> Iterator[tuple[str, Speech]]:
    """Searches recordings for speech and writes a part file per chunk; yields ids and speech in the given order."""
    plan = _plan(recordings, config.work_unit_minutes * 60)
    if not len(plan):
        return iter(())
    parts = storage.join(stage_uri, stage_of(SEGMENTS).parts)
    threshold = config.speech_threshold
    dataflow.run_chunks(plan, parts, FindSpeech, {"threshold": threshold}, _all_failed, cluster, report)
    return _read([dataflow.part_uri(parts, name) for name in plan.names])


def _plan(recordings: Iterable[Recording], chunk_s: float) -> WorkPlan:
    """Chunks of whole recordings; one longer than a chunk is searched in slices."""
    names = ChunkNames(chunk_s)

    def tables() -> Iterator[pa.Table]:
        columns: dict[str, list[object]] = {name: [] for name in SEARCH_SCHEMA.names}
        for recording in recordings:
            for start_s, end_s in divide((0.0, recording.duration_s), chunk_s):
                name = names.next(recording.corpus, end_s - start_s)
                row = (recording.recording_id, recording.uri, recording.channel, start_s, end_s, name)
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

    def __call__(self, chunk: Chunk, wavs: Sequence[NDArray[np.float32] | AudioError]) -> pa.Table:
        return _speech_table(chunk, [wav if isinstance(wav, AudioError) else self._detect(wav) for wav in wavs])


def _all_failed(chunk: Chunk, error: AudioError) -> pa.Table:
    return _speech_table(chunk, [error] * len(chunk.ids))


def _speech_table(chunk: Chunk, outcomes: Sequence[Regions | AudioError]) -> pa.Table:
    errors = [outcome if isinstance(outcome, AudioError) else None for outcome in outcomes]
    return pa.table(
        {
            "recording_id": pa.array(chunk.ids, pa.string()),
            "start_s": pa.array([span.start_s for span in chunk.spans], pa.float64()),
            "end_s": pa.array([span.end_s for span in chunk.spans], pa.float64()),
            "regions": pa.array(
                [None if isinstance(outcome, AudioError) else json.dumps(outcome) for outcome in outcomes], pa.string()
            ),
            "drop_reason": pa.array([error and error.reason for error in errors], pa.string()),
            "drop_detail": pa.array([error and error.detail for error in errors], pa.string()),
        }
    )


def _read(parts: Sequence[str]) -> Iterator[tuple[str, Speech]]:
    rows = (row for part in parquet.read_many(parts) for row in part.to_pylist())
    for recording_id, slices in itertools.groupby(rows, key=lambda row: row["recording_id"]):
        speech = Speech()
        for row in slices:
            # A silent slice of a long recording is normal, not a failure.
            if row["drop_reason"] not in (None, "silent"):
                error = AudioError(row["drop_reason"], row["drop_detail"])
                speech.failures.append((error, row["end_s"] - row["start_s"]))
            regions = json.loads(row["regions"] or "[]")
            speech.regions.extend((row["start_s"] + on_s, row["start_s"] + off_s) for on_s, off_s in regions)
        yield recording_id, speech
