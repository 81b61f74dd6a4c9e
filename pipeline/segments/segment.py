"""Cuts the kept recordings into segments of speech and groups these into chunks.

    RUN/manifest/, RUN/language/ -> RUN/segments/segments.parquet (SEGMENT_SCHEMA)

If the corpus says where speech is, that is used, after tidying: it may be unsorted, overlapping or beyond the
recording's end. Otherwise speech is detected in the audio (search.py, `detect_speech`). Long recordings are cut at
their pauses (cut.py).
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language.filter import kept_recordings
from pipeline.records import LENGTH_SCHEMA, SEGMENT_SCHEMA, Dropped, Recording
from pipeline.runs import LANGUAGE, MANIFEST, SEGMENTS
from pipeline.segments.cut import Regions, cut_around, divide, tidy
from pipeline.segments.search import Speech, is_to_be_searched, search
from pipeline.stage import LengthDifferences, Stage, StageCounts, Tally, digest, fingerprint_of
from pipeline.work.plan import ChunkNames, WorkPlan
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.audio.read import Hole
    from pipeline.progress import ReportProgress
    from pipeline.segments.config import SegmentConfig
    from pipeline.work.cluster import ClusterConfig

SEGMENTS_FILE = "segments.parquet"
LENGTHS_FILE = "lengths.parquet"
# Shorter remainders are rounding errors of sums.
NEGLIGIBLE_S = 1e-6


def make_segments(
    run: str, config: SegmentConfig, cluster: ClusterConfig, report: ReportProgress, *, retry_dropped: bool = False
) -> None:
    """Finds speech where it is not known, cuts every kept recording and plans the chunks.

    `retry_dropped`: search again in what could not be read for reasons that may have passed.

    Raises:
        TwistError: no recording holds a segment.
    """
    inputs = {name: fingerprint_of(run, name) for name in (MANIFEST, LANGUAGE)}
    stage = Stage(run, SEGMENTS, asdict(config), inputs)
    with stage.begin(functools.partial(take_back_dropped, stage) if retry_dropped else None) as has_work:
        if not has_work:
            return
        work: dict[str, Any] = {}
        found: Iterator[tuple[str, Speech]] = iter(())
        if config.detect_speech != "none":
            to_search = (recording for recording in kept_recordings(run) if is_to_be_searched(recording, config))
            work, found = search(stage.uri, to_search, config, cluster, report)
        _write(stage, _with_speech(kept_recordings(run), found, config), config, work)


def _with_speech(
    recordings: Iterable[Recording], found: Iterator[tuple[str, Speech]], config: SegmentConfig
) -> Iterator[tuple[Recording, Speech | None]]:
    """Yields every recording with its speech (None if it is taken whole); `found` holds those that were searched."""
    for recording in recordings:
        if recording.voice_activity is not None:
            yield recording, Speech(tidy(recording.voice_activity, recording.duration_s))
        elif is_to_be_searched(recording, config):
            id, speech = next(found)
            assert id == recording.recording_id, f"{id} was searched, not {recording.recording_id}"
            # Tidying joins speech that the edge between two slices split.
            regions = tidy(speech.regions, recording.duration_s + speech.beyond_s)
            yield recording, replace(speech, regions=regions)
        else:
            yield recording, None


def _write(
    stage: Stage,
    recordings: Iterable[tuple[Recording, Speech | None]],
    config: SegmentConfig,
    work: dict[str, Any],
) -> None:
    segments = _SegmentRows(config.work_unit_minutes * 60)
    dropped: list[Dropped] = []
    total, kept = Tally(), Tally()
    lengths = _Lengths()

    def cut_all() -> Iterator[pa.Table]:
        nonlocal total, kept
        for recording, speech in recordings:
            if speech is None:
                candidates = divide((0.0, recording.duration_s), config.max_s)
            else:
                holes = [(hole.start_s, hole.end_s) for hole in speech.holes]
                candidates = cut_around(holes, speech.regions, recording.duration_s + speech.beyond_s, config)
            long_enough = [(start_s, end_s) for start_s, end_s in candidates if end_s - start_s >= config.min_s]
            total += Tally(1, lengths.add(recording, speech) / 3600)
            if long_enough:
                kept += Tally(1, sum(end_s - start_s for start_s, end_s in long_enough) / 3600)
            dropped.extend(_losses(recording, candidates, long_enough, speech or Speech(), config))
            yield from segments.add(recording, long_enough, None if speech else config.max_s)
        yield from segments.rest()

    content = parquet.groups_to_bytes(cut_all(), SEGMENT_SCHEMA)
    if not segments.num_rows:
        raise TwistError(
            f"none of {total.items} recordings holds a segment of {config.min_s:g} to {config.max_s:g} s: "
            + "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in dropped[:3])
        )
    storage.write_bytes(storage.join(stage.uri, SEGMENTS_FILE), content)
    parquet.write(storage.join(stage.uri, LENGTHS_FILE), lengths.table())
    counts = StageCounts.of(total, kept, dropped)
    facts = {"segments": segments.num_rows, "work_units": segments.num_chunks}
    stage.finish(counts, dropped, digest(content), **facts, lengths=lengths.differences.as_facts(), work=work)


class _Lengths:
    """The lengths of recordings that searching found to be other than stated."""

    def __init__(self) -> None:
        self.differences = LengthDifferences()
        self._rows: list[tuple[str, float, float]] = []

    def add(self, recording: Recording, speech: Speech | None) -> float:
        """Adds a recording; returns the seconds to account for: what was stated, and what there is beyond it."""
        if speech is None:
            return recording.duration_s
        longer_s = speech.beyond_s + speech.unread_s
        shorter_s = sum(hole.end_s - hole.start_s for hole in speech.holes if hole.reason == "truncated")
        self.differences.add(longer_s, shorter_s)
        if longer_s or shorter_s:
            actual_s = recording.duration_s + longer_s - shorter_s
            self._rows.append((recording.recording_id, recording.duration_s, actual_s))
        return recording.duration_s + longer_s

    def table(self) -> pa.Table:
        """A table of LENGTH_SCHEMA."""
        columns = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        return pa.table(dict(zip(LENGTH_SCHEMA.names, map(list, columns), strict=True)), schema=LENGTH_SCHEMA)


class _SegmentRows:
    """Collects segments in tables of SEGMENT_SCHEMA, each with whole chunks."""

    def __init__(self, chunk_s: float) -> None:
        self.num_rows = 0
        self.num_chunks = 0
        self._names = ChunkNames(chunk_s)
        self._last_name = ""
        self._columns: dict[str, list[object]] = {name: [] for name in SEGMENT_SCHEMA.names}

    def add(self, recording: Recording, segments: Regions, longest_s: float | None) -> Iterator[pa.Table]:
        """Adds the segments of the next recording; yields a table when one is full.

        `longest_s` is how long its last segment may become, if its audio goes on behind the stated end; None if it does
        not end there, or that was found out already.
        """
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
            is_last = longest_s is not None and end_s == recording.duration_s
            columns["reads_on_s"].append(max(0.0, longest_s - (end_s - start_s)) if longest_s and is_last else None)
        self.num_rows += len(segments)

    def rest(self) -> Iterator[pa.Table]:
        """Yields the rows collected since the last table, if there are any."""
        if self._columns["segment_id"]:
            yield pa.table(self._columns, schema=SEGMENT_SCHEMA)
        for column in self._columns.values():
            column.clear()


def _losses(
    recording: Recording,
    candidates: Regions,
    segments: Regions,
    speech: Speech,
    config: SegmentConfig,
) -> list[Dropped]:
    """Drops for all that cutting leaves out of a recording: holes, too short speech, and pauses."""
    candidates_s, segments_s = (sum(end_s - start_s for start_s, end_s in spans) for spans in (candidates, segments))
    rest_s = recording.duration_s + speech.beyond_s - candidates_s
    losses: list[Dropped] = []

    def lose(reason: str, detail: str, duration_s: float) -> None:
        # A recording without segments is counted under its first reason.
        num_items = 0 if segments or losses else 1
        losses.append(Dropped(recording.recording_id, recording.corpus, reason, detail, duration_s, num_items))

    for reason, holes in _by_reason(speech.holes).items():
        holes_s = sum(hole.end_s - hole.start_s for hole in holes)
        rest_s -= holes_s
        more = f", and {len(holes) - 1} more places" if len(holes) > 1 else ""
        lose(reason, f"{holes[0].detail}, at {holes[0].start_s:.1f} s{more}", holes_s)
    if speech.unread_s:
        lose("beyond_stated_end", "more lies behind the stated end than was looked at", speech.unread_s)
    if len(candidates) > len(segments):
        detail = f"{len(candidates) - len(segments)} of {len(candidates)} stretches are shorter than {config.min_s:g} s"
        lose("too_short", detail, candidates_s - segments_s)
    if rest_s > NEGLIGIBLE_S or not (segments or losses):
        lose("no_speech", "pauses" if segments or losses else "no speech was found", max(0.0, rest_s))
    return losses


def _by_reason(holes: Sequence[Hole]) -> dict[str, list[Hole]]:
    by_reason: dict[str, list[Hole]] = {}
    for hole in holes:
        by_reason.setdefault(hole.reason, []).append(hole)
    return by_reason


def read_segments(run: str) -> pa.Table:
    """Reads the segments of a finished stage, in the order of their chunks (SEGMENT_SCHEMA)."""
    with open_segments(run) as segments:
        return segments.read_all()


@contextlib.contextmanager
def open_segments(run: str) -> Iterator[parquet.RowGroups]:
    """Opens the same table to be read on demand, in row groups of whole chunks."""
    fingerprint_of(run, SEGMENTS)
    uri = storage.join(run, SEGMENTS, SEGMENTS_FILE)
    with parquet.RowGroups(uri) as file:
        # Runs that were begun before a column was new have none.
        columns = [name for name in SEGMENT_SCHEMA.names if name != "reads_on_s" or name in file.schema.names]
    with parquet.RowGroups(uri, columns) as groups:
        yield groups


def plan_of(segments: parquet.RowGroups) -> WorkPlan:
    """Makes the plan of chunks from the segments; usable until `segments` is closed."""
    return WorkPlan(segments, segments.read, "segment_id")
