"""Cuts the kept recordings into segments of speech and groups these into chunks.

    RUN/manifest/, RUN/language/ -> RUN/segments/segments.parquet (SEGMENT_SCHEMA)

Where the corpus says where speech is, that is used, put in order first: corpora give it unsorted, overlapping, beyond
the recording's end. Else speech is detected in the audio (`detect_speech`), on many workers, a part file per chunk
of recordings below RUN/segments/speech/. Long recordings are cut at their pauses.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from pipeline.audio.read import AudioError
from pipeline.audio.voice_activity import SpeechDetector
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language.filter import kept_recordings
from pipeline.records import SEGMENT_SCHEMA, Dropped, Recording
from pipeline.runs import LANGUAGE, MANIFEST, SEGMENTS, parts_uri
from pipeline.segments.config import SegmentConfig
from pipeline.stage import Stage, StageCounts, Tally, digest, fingerprint_of
from pipeline.work import dataflow
from pipeline.work.plan import ChunkNames, WorkPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

SEGMENTS_FILE = "segments.parquet"
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
# Less is what sums of floats lose.
NEGLIGIBLE_S = 1e-6

Regions = list[tuple[float, float]]


def make_segments(run: str, config: SegmentConfig, cluster: ClusterConfig, report: ReportProgress) -> None:
    """Finds speech where it is not known, cuts every kept recording and plans the chunks.

    Raises:
        TwistError: no recording holds a segment.
    """
    inputs = {name: fingerprint_of(run, name) for name in (MANIFEST, LANGUAGE)}
    stage = Stage(run, SEGMENTS, asdict(config), inputs)
    with stage.begin() as has_work:
        if not has_work:
            return
        found = _search(stage, run, config, cluster, report)
        _write(stage, _listened_to(run, found, config), config)


def tidy(regions: Iterable[Sequence[float]], duration_s: float) -> Regions:
    """Puts speech of any source in order: sorted, within the recording, overlapping and touching regions joined.

    Args:
        regions: (on, off) seconds. One that is empty, backwards or holds NaN is left out.
        duration_s: The recording's length.
    """
    clipped = ((max(0.0, on_s), min(off_s, duration_s)) for on_s, off_s in regions if on_s < off_s)
    tidied: Regions = []
    for on_s, off_s in sorted(clipped):
        if on_s >= off_s:  # beyond the recording
            continue
        if tidied and on_s <= tidied[-1][1]:
            tidied[-1] = (tidied[-1][0], max(tidied[-1][1], off_s))
        else:
            tidied.append((on_s, off_s))
    return tidied


def cut(regions: Regions, duration_s: float, config: SegmentConfig) -> Regions:
    """Cuts one recording at its pauses.

    Neighbouring speech is joined up to `max_s`; where more follows, the cut is at the longest pause of the second half.
    Only speech that goes on for longer than `max_s` without any pause is cut inside.

    Args:
        regions: Speech as (on, off) seconds, in order and without overlap.
        duration_s: The recording's length.

    Returns:
        Candidate segments as (start, end) seconds, in order, without overlap, within the recording and at most `max_s`
        long. Some may be shorter than `min_s`.
    """
    longest_s = config.max_s - 2 * config.padding_s
    pieces = [piece for region in regions for piece in _divide(region, longest_s)]
    stretches: Regions = []
    for group in _split_at_pauses(pieces, config.max_pause_s):
        first = 0
        while first < len(group):
            last = _last_piece(group, first, longest_s, config)
            stretches.append((group[first][0], group[last][1]))
            first = last + 1
    # Padding may take no more than its half of the pause to the neighbour.
    middles_s = [(before[1] + after[0]) / 2 for before, after in itertools.pairwise(stretches)]
    edges_s = itertools.pairwise([0.0, *middles_s, duration_s])
    return [_pad(stretch, *edges, duration_s, config) for stretch, edges in zip(stretches, edges_s, strict=False)]


def _split_at_pauses(pieces: Regions, max_pause_s: float) -> list[Regions]:
    groups: list[Regions] = []
    for piece in pieces:
        if groups and piece[0] - groups[-1][-1][1] <= max_pause_s:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _last_piece(pieces: Regions, first: int, longest_s: float, config: SegmentConfig) -> int:
    """The index of the piece that ends the segment which begins with piece `first`."""
    start_s = pieces[first][0]
    if pieces[-1][1] - start_s <= longest_s:
        return len(pieces) - 1
    best, best_value = first, -1.0
    for last in range(first, len(pieces) - 1):
        if pieces[last][1] - start_s > longest_s:
            break
        pause_s = pieces[last + 1][0] - pieces[last][1]
        # A cut in the first half, or one that leaves a rest too short to stand alone, only where there is no other.
        rest_s = pieces[-1][1] - pieces[last + 1][0]
        is_good = pieces[last][1] - start_s >= longest_s / 2 and rest_s >= config.min_s
        value = pause_s + (2 * config.max_pause_s if is_good else 0.0)
        if value >= best_value:
            best, best_value = last, value
    return best


def _divide(region: tuple[float, float], longest_s: float) -> Regions:
    on_s, off_s = region
    parts = max(1, math.ceil((off_s - on_s) / longest_s))
    edges = [on_s + (off_s - on_s) * part / parts for part in range(parts)] + [off_s]
    return list(itertools.pairwise(edges))


def _pad(
    stretch: tuple[float, float], before_s: float, after_s: float, duration_s: float, config: SegmentConfig
) -> tuple[float, float]:
    start_s = max(stretch[0] - config.padding_s, before_s)
    end_s = min(stretch[1] + config.padding_s, after_s)
    # Whole milliseconds, rounded inwards, except at the recording's own end.
    end_s = end_s if end_s == duration_s else math.floor(end_s * 1000) / 1000
    return min(math.ceil(start_s * 1000) / 1000, end_s), end_s


@dataclass(frozen=True)
class _Heard:
    """Where speech was found in a recording, or in the slices that could be searched.

    Attributes:
        regions: (on, off) in seconds.
        failures: What went wrong with a slice, and how long that slice is.
    """

    regions: Regions = field(default_factory=list)
    failures: list[tuple[AudioError, float]] = field(default_factory=list)


def _is_to_be_searched(recording: Recording, config: SegmentConfig) -> bool:
    if recording.voice_activity is not None:
        return False
    return config.detect_speech == "all" or (config.detect_speech == "long" and recording.duration_s > config.max_s)


def _search(
    stage: Stage, run: str, config: SegmentConfig, cluster: ClusterConfig, report: ReportProgress
) -> Iterator[tuple[str, _Heard]]:
    """Searches the recordings of which nothing is known; gives what was found, by recording id, in their order."""
    to_search = (recording for recording in kept_recordings(run) if _is_to_be_searched(recording, config))
    plan = _plan_search(to_search, config.work_unit_minutes * 60)
    if not len(plan):
        return iter(())
    parts = parts_uri(stage.run, SEGMENTS)
    threshold = config.speech_threshold
    dataflow.run_chunks(plan, parts, FindSpeech, {"threshold": threshold}, _all_failed, cluster, report)
    return _read_search([dataflow.part_uri(parts, name) for name in plan.names])


def _plan_search(recordings: Iterable[Recording], chunk_s: float) -> WorkPlan:
    """Chunks of whole recordings; one longer than a chunk is searched in slices."""
    columns: dict[str, list[object]] = {
        name: [] for name in ("recording_id", "uri", "channel", "start_s", "end_s", "work_unit")
    }
    names = ChunkNames(chunk_s)
    for recording in recordings:
        for start_s, end_s in _divide((0.0, recording.duration_s), chunk_s):
            name = names.next(recording.corpus, end_s - start_s)
            row = (recording.recording_id, recording.uri, recording.channel, start_s, end_s, name)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return WorkPlan.of(pa.table(columns, schema=SEARCH_SCHEMA), "recording_id")


class FindSpeech:
    """Searches the recordings of a chunk for speech."""

    def __init__(self, threshold: float) -> None:
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


def _read_search(parts: Sequence[str]) -> Iterator[tuple[str, _Heard]]:
    rows = (row for part in parquet.read_many(parts) for row in part.to_pylist())
    for recording_id, slices in itertools.groupby(rows, key=lambda row: row["recording_id"]):
        heard = _Heard()
        for row in slices:
            # Silence within a long recording is nothing special, and a slice at its end may well hold nothing else.
            if row["drop_reason"] not in (None, "silent"):
                error = AudioError(row["drop_reason"], row["drop_detail"])
                heard.failures.append((error, row["end_s"] - row["start_s"]))
            regions = json.loads(row["regions"] or "[]")
            heard.regions.extend((row["start_s"] + on_s, row["start_s"] + off_s) for on_s, off_s in regions)
        yield recording_id, heard


def _listened_to(
    run: str, found: Iterator[tuple[str, _Heard]], config: SegmentConfig
) -> Iterator[tuple[Recording, _Heard | None]]:
    """Every kept recording and where there is speech in it; None: it is taken whole."""
    for recording in kept_recordings(run):
        if recording.voice_activity is not None:
            yield recording, _Heard(tidy(recording.voice_activity, recording.duration_s))
        elif _is_to_be_searched(recording, config):
            recording_id, heard = next(found)
            assert recording_id == recording.recording_id, f"{recording_id} was searched, not {recording.recording_id}"
            # Joins what the edge between two slices has parted.
            yield recording, _Heard(tidy(heard.regions, recording.duration_s), heard.failures)
        else:
            yield recording, None


def _write(stage: Stage, recordings: Iterable[tuple[Recording, _Heard | None]], config: SegmentConfig) -> None:
    segments = _SegmentRows(config.work_unit_minutes * 60)
    dropped: list[Dropped] = []
    total, kept = Tally(), Tally()

    def cut_all() -> Iterator[pa.Table]:
        nonlocal total, kept
        for recording, heard in recordings:
            if heard is None:
                candidates = _divide((0.0, recording.duration_s), config.max_s)
            else:
                candidates = cut(heard.regions, recording.duration_s, config)
            long_enough = [(start_s, end_s) for start_s, end_s in candidates if end_s - start_s >= config.min_s]
            total += Tally(1, recording.duration_s / 3600)
            if long_enough:
                kept += Tally(1, sum(end_s - start_s for start_s, end_s in long_enough) / 3600)
            dropped.extend(_losses(recording, candidates, long_enough, heard.failures if heard else [], config))
            yield from segments.add(recording, long_enough)
        yield from segments.rest()

    content = parquet.groups_to_bytes(cut_all(), SEGMENT_SCHEMA)
    if not segments.num_rows:
        raise TwistError(
            f"none of {total.items} recordings holds a segment of {config.min_s:g} to {config.max_s:g} s: "
            + "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in dropped[:3])
        )
    storage.write_bytes(storage.join(stage.uri, SEGMENTS_FILE), content)
    counts = StageCounts.of(total, kept, dropped)
    stage.finish(counts, dropped, digest(content), segments=segments.num_rows, work_units=segments.num_chunks)


class _SegmentRows:
    """Segments as tables of SEGMENT_SCHEMA, each with whole chunks."""

    def __init__(self, chunk_s: float) -> None:
        self.num_rows = 0
        self.num_chunks = 0
        self._names = ChunkNames(chunk_s)
        self._last_name = ""
        self._columns: dict[str, list[object]] = {name: [] for name in SEGMENT_SCHEMA.names}

    def add(self, recording: Recording, segments: Regions) -> Iterator[pa.Table]:
        """Takes the segments of the next recording; gives a table where one is full."""
        columns = self._columns
        for start_s, end_s in segments:
            name = self._names.next(recording.corpus, end_s - start_s)
            if name != self._last_name:
                if len(columns["work_unit"]) >= parquet.ROW_GROUP_ROWS:
                    yield from self.rest()
                self._last_name = name
                self.num_chunks += 1
            columns["segment_id"].append(f"{recording.recording_id}#{start_s * 1000:08.0f}-{end_s * 1000:08.0f}")
            columns["recording_id"].append(recording.recording_id)
            columns["start_s"].append(start_s)
            columns["end_s"].append(end_s)
            columns["work_unit"].append(name)
            columns["uri"].append(recording.uri)
            columns["channel"].append(recording.channel)
        self.num_rows += len(segments)

    def rest(self) -> Iterator[pa.Table]:
        """What is left."""
        if self._columns["segment_id"]:
            yield pa.table(self._columns, schema=SEGMENT_SCHEMA)
        for column in self._columns.values():
            column.clear()


def _losses(
    recording: Recording,
    candidates: Regions,
    segments: Regions,
    failed: Sequence[tuple[AudioError, float]],
    config: SegmentConfig,
) -> list[Dropped]:
    """What cutting leaves out of one recording: what could not be searched, speech too short, and what is no speech."""
    candidates_s, segments_s = (sum(end_s - start_s for start_s, end_s in spans) for spans in (candidates, segments))
    rest_s = recording.duration_s - candidates_s
    losses: list[Dropped] = []

    def lose(reason: str, detail: str, duration_s: float) -> None:
        # The first reason is the one for which a recording without segments goes.
        num_items = 0 if segments or losses else 1
        losses.append(Dropped(recording.recording_id, recording.corpus, reason, detail, duration_s, num_items))

    for error, slice_s in failed:
        failed_s = min(slice_s, rest_s)  # a neighbour's padding may reach into it
        rest_s -= failed_s
        lose(error.reason, error.detail, failed_s)
    if len(candidates) > len(segments):
        detail = f"{len(candidates) - len(segments)} of {len(candidates)} stretches are shorter than {config.min_s:g} s"
        lose("too_short", detail, candidates_s - segments_s)
    if rest_s > NEGLIGIBLE_S or not (segments or losses):
        lose("no_speech", "pauses" if segments or losses else "no speech was found", max(0.0, rest_s))
    return losses


def read_segments(run: str) -> pa.Table:
    """The segments of a finished stage, in the order of their chunks."""
    fingerprint_of(run, SEGMENTS)
    return parquet.read(storage.join(run, SEGMENTS, SEGMENTS_FILE), SEGMENT_SCHEMA.names)


@contextlib.contextmanager
def open_segments(run: str) -> Iterator[parquet.RowGroups]:
    """The same as tables of whole chunks, which are read as they are asked for."""
    fingerprint_of(run, SEGMENTS)
    with parquet.RowGroups(storage.join(run, SEGMENTS, SEGMENTS_FILE), SEGMENT_SCHEMA.names) as groups:
        yield groups


def plan_of(segments: parquet.RowGroups) -> WorkPlan:
    """The work that segments are; of use until they are closed."""
    return WorkPlan(segments, segments.read, "segment_id")
