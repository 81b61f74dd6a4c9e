"""Cuts the kept recordings into segments of speech and groups these into work units.

    RUN/manifest/, RUN/language/ -> RUN/segments/segments.parquet (SEGMENT_SCHEMA)

Where the corpus says where speech is, that is used, put in order first: corpora give it unsorted, overlapping, beyond
the recording's end. Else speech is detected in the audio (`detect_speech`), on many workers, a part file per work unit
of recordings below RUN/segments/speech/. Long recordings are cut at their pauses.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from pipeline import dataflow, parquet, storage
from pipeline.audio import AudioError, Span
from pipeline.errors import TwistError
from pipeline.language import STAGE as LANGUAGE
from pipeline.language import read_decisions
from pipeline.manifest import STAGE as MANIFEST
from pipeline.manifest import read_recordings
from pipeline.records import SEGMENT_SCHEMA, Dropped, Recording
from pipeline.stage import Stage, StageCounts, Tally, digest, fingerprint_of
from pipeline.voice_activity import SpeechDetector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from pipeline.dataflow import ClusterConfig, WorkUnit
    from pipeline.progress import ReportProgress

STAGE = "segments"
SEGMENTS = "segments.parquet"
SPEECH = "speech"
# Durations are stored as uint16 frames of 40 ms.
LONGEST_SEGMENT_S = 2_000.0
# Less is what sums of floats lose.
NEGLIGIBLE_S = 1e-6

Regions = list[tuple[float, float]]
# By recording: what went wrong with a slice of it, and how long that slice is.
Failures = dict[str, list[tuple[AudioError, float]]]


@dataclass(frozen=True)
class SegmentConfig:
    """How recordings are cut.

    Args:
        min_s: Shortest segment, in seconds; shorter speech is dropped.
        max_s: Longest segment, in seconds (TWIST trains on samples of up to 25 s).
        max_pause_s: A longer pause, in seconds, always ends a segment.
        padding_s: Seconds of the surrounding pause that are kept at each end of detected speech.
        detect_speech: Whose audio is searched for speech where the corpus does not say where it is: of all
            recordings, of those longer than max_s, or of none (these are then cut into equal parts).
        speech_threshold: Probability above which a window of audio counts as speech.
        work_unit_minutes: Minutes of audio that one worker takes at a time.
    """

    min_s: float = 2.0
    max_s: float = 25.0
    max_pause_s: float = 1.0
    padding_s: float = 0.1
    detect_speech: Literal["all", "long", "none"] = "long"
    speech_threshold: float = 0.5
    work_unit_minutes: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.min_s < self.max_s <= LONGEST_SEGMENT_S:
            bounds = f"0 < min_s < max_s <= {LONGEST_SEGMENT_S:g}"
            raise TwistError(f"segments need {bounds}, not min_s {self.min_s} and max_s {self.max_s}")
        if not (0 <= 2 * self.padding_s < self.max_s and self.max_pause_s > 0):
            raise TwistError(
                f"segments need 0 <= padding_s < max_s / 2 and max_pause_s > 0, not padding_s {self.padding_s} and "
                f"max_pause_s {self.max_pause_s}"
            )
        if not 0 < self.speech_threshold < 1:
            raise TwistError(f"segments.speech_threshold is a probability, not {self.speech_threshold}")
        if not self.work_unit_minutes > 0:
            raise TwistError(f"segments.work_unit_minutes must be positive, not {self.work_unit_minutes}")


def make_segments(run: str, config: SegmentConfig, cluster: ClusterConfig, report: ReportProgress) -> None:
    """Finds speech where it is not known, cuts every kept recording and plans the work units.

    Raises:
        TwistError: no recording holds a segment.
    """
    inputs = {name: fingerprint_of(run, name) for name in (MANIFEST, LANGUAGE)}
    stage = Stage(run, STAGE, asdict(config), inputs)
    with stage.begin() as has_work:
        if not has_work:
            return
        decisions = read_decisions(run)
        recordings = [recording for recording in read_recordings(run) if decisions[recording.recording_id].keep]
        speech, failures = _find_speech(stage, recordings, config, cluster, report)
        _write(stage, recordings, speech, failures, config)


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


def _find_speech(
    stage: Stage,
    recordings: Sequence[Recording],
    config: SegmentConfig,
    cluster: ClusterConfig,
    report: ReportProgress,
) -> tuple[dict[str, Regions | None], Failures]:
    """Speech by recording id (None: taken whole), and what could not be searched."""
    speech: dict[str, Regions | None] = {}
    to_search: list[Recording] = []
    for recording in recordings:
        if recording.voice_activity is not None:
            speech[recording.recording_id] = tidy(recording.voice_activity, recording.duration_s)
        elif config.detect_speech == "all" or (config.detect_speech == "long" and recording.duration_s > config.max_s):
            to_search.append(recording)
        else:
            speech[recording.recording_id] = None
    if not to_search:
        return speech, {}
    work_units = _plan_search(to_search, config.work_unit_minutes * 60)
    parts = storage.join(stage.uri, SPEECH)
    threshold = config.speech_threshold
    dataflow.run_work_units(work_units, parts, FindSpeech, {"threshold": threshold}, _all_failed, cluster, report)
    found, failures = _read_search(parts, [unit.name for unit in work_units])
    for recording in to_search:
        if recording.recording_id in found:
            # Joins what the edge between two slices has parted.
            speech[recording.recording_id] = tidy(found[recording.recording_id], recording.duration_s)
    return speech, failures


def _plan_search(recordings: Sequence[Recording], work_unit_s: float) -> list[WorkUnit]:
    """Work units of whole recordings; one longer than a work unit is searched in slices."""
    ids, corpora, spans = [], [], []
    for recording in recordings:
        for start_s, end_s in _divide((0.0, recording.duration_s), work_unit_s):
            ids.append(recording.recording_id)
            corpora.append(recording.corpus)
            spans.append(Span(recording.uri, recording.channel, start_s, end_s))
    names = name_work_units(corpora, [span.end_s - span.start_s for span in spans], work_unit_s)
    grouped = itertools.groupby(zip(names, ids, spans, strict=True), key=lambda row: row[0])
    return [
        dataflow.WorkUnit(name, tuple(row[1] for row in rows), tuple(row[2] for row in rows))
        for name, rows in ((name, list(rows)) for name, rows in grouped)
    ]


class FindSpeech:
    """Searches the recordings of a work unit for speech."""

    def __init__(self, threshold: float) -> None:
        self._detect = SpeechDetector(threshold)

    def __call__(self, unit: WorkUnit, wavs: Sequence[NDArray[np.float32] | AudioError]) -> pa.Table:
        return _speech_table(unit, [wav if isinstance(wav, AudioError) else self._detect(wav) for wav in wavs])


def _all_failed(unit: WorkUnit, error: AudioError) -> pa.Table:
    return _speech_table(unit, [error] * len(unit.ids))


def _speech_table(unit: WorkUnit, outcomes: Sequence[Regions | AudioError]) -> pa.Table:
    errors = [outcome if isinstance(outcome, AudioError) else None for outcome in outcomes]
    return pa.table(
        {
            "recording_id": pa.array(unit.ids, pa.string()),
            "start_s": pa.array([span.start_s for span in unit.spans], pa.float64()),
            "end_s": pa.array([span.end_s for span in unit.spans], pa.float64()),
            "regions": pa.array(
                [None if isinstance(outcome, AudioError) else json.dumps(outcome) for outcome in outcomes], pa.string()
            ),
            "reason": pa.array([error and error.reason for error in errors], pa.string()),
            "detail": pa.array([error and error.detail for error in errors], pa.string()),
        }
    )


def _read_search(parts: str, names: Sequence[str]) -> tuple[dict[str, Regions], Failures]:
    failures: Failures = defaultdict(list)
    found: dict[str, Regions] = defaultdict(list)
    for name in names:
        for row in parquet.read(dataflow.part_uri(parts, name)).to_pylist():
            # Silence within a long recording is nothing special, and a slice at its end may well hold nothing else.
            if row["reason"] is not None and row["reason"] != "silent":
                error = AudioError(row["reason"], row["detail"])
                failures[row["recording_id"]].append((error, row["end_s"] - row["start_s"]))
            found[row["recording_id"]] += [
                (row["start_s"] + on_s, row["start_s"] + off_s) for on_s, off_s in json.loads(row["regions"] or "[]")
            ]
    return found, failures


def name_work_units(corpora: Sequence[str], durations_s: Iterable[float], work_unit_s: float) -> list[str]:
    """The work unit of each of a row of spans, by running time: neighbours share a unit of about `work_unit_s`.

    Units are numbered within each corpus, so that another corpus beside it changes nothing.
    """
    durations = np.fromiter(durations_s, np.float64, len(corpora))
    names: list[str] = []
    for corpus, rows in itertools.groupby(range(len(corpora)), key=corpora.__getitem__):
        in_corpus = durations[list(rows)]
        starts = np.cumsum(in_corpus) - in_corpus
        # Rounded, so that the order of summation cannot move a span to another unit.
        numbers = np.floor(np.round(starts / work_unit_s, 6)).astype(np.int64)
        _, numbers = np.unique(numbers, return_inverse=True)
        names += [f"{corpus}-{number:07d}" for number in numbers]
    return names


def _write(
    stage: Stage,
    recordings: Sequence[Recording],
    speech: dict[str, Regions | None],
    failures: Failures,
    config: SegmentConfig,
) -> None:
    rows: list[tuple[Recording, float, float]] = []
    dropped: list[Dropped] = []
    kept_s = 0.0
    for recording in recordings:
        regions = speech[recording.recording_id]
        if regions is None:
            candidates = _divide((0.0, recording.duration_s), config.max_s)
        else:
            candidates = cut(regions, recording.duration_s, config)
        segments = [(start_s, end_s) for start_s, end_s in candidates if end_s - start_s >= config.min_s]
        rows += [(recording, start_s, end_s) for start_s, end_s in segments]
        lengths_s = sum(end_s - start_s for start_s, end_s in segments)
        kept_s += lengths_s
        failed = failures.get(recording.recording_id, [])
        dropped += _losses(recording, candidates, segments, failed, config)
    if not rows:
        raise TwistError(
            f"none of {len(recordings)} recordings holds a segment of {config.min_s:g} to {config.max_s:g} s: "
            + "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in dropped[:3])
        )
    table = _segment_table(rows, config.work_unit_minutes * 60)
    content = parquet.to_bytes(table)
    storage.write_bytes(storage.join(stage.uri, SEGMENTS), content)
    total = Tally(len(recordings), sum(recording.duration_s for recording in recordings) / 3600)
    kept_recordings = len({recording.recording_id for recording, _, _ in rows})
    counts = StageCounts.of(total, Tally(kept_recordings, kept_s / 3600), dropped)
    num_work_units = len(set(table["work_unit"].to_pylist()))
    stage.finish(counts, dropped, digest(content), segments=len(rows), work_units=num_work_units)


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


def _segment_table(rows: Sequence[tuple[Recording, float, float]], work_unit_s: float) -> pa.Table:
    return pa.table(
        {
            "segment_id": [
                f"{r.recording_id}#{start_s * 1000:08.0f}-{end_s * 1000:08.0f}" for r, start_s, end_s in rows
            ],
            "recording_id": [recording.recording_id for recording, _, _ in rows],
            "start_s": [start_s for _, start_s, _ in rows],
            "end_s": [end_s for _, _, end_s in rows],
            "work_unit": name_work_units(
                [recording.corpus for recording, _, _ in rows],
                (end_s - start_s for _, start_s, end_s in rows),
                work_unit_s,
            ),
            "uri": [recording.uri for recording, _, _ in rows],
            "channel": [recording.channel for recording, _, _ in rows],
        },
        schema=SEGMENT_SCHEMA,
    )


def read_segments(run: str) -> pa.Table:
    """The segments of a finished stage, in the order of their work units."""
    fingerprint_of(run, STAGE)
    return parquet.read(storage.join(run, STAGE, SEGMENTS), SEGMENT_SCHEMA.names)


def work_units_of(segments: pa.Table) -> list[WorkUnit]:
    """Segments (sorted by work unit) as the work that they are."""
    work_units = []
    columns = ("work_unit", "segment_id", "uri", "channel", "start_s", "end_s")
    rows = zip(*(segments.column(name).to_pylist() for name in columns), strict=True)
    for name, group in itertools.groupby(rows, key=lambda row: row[0]):
        unit = list(group)
        spans = tuple(Span(uri, channel, start_s, end_s) for _, _, uri, channel, start_s, end_s in unit)
        work_units.append(dataflow.WorkUnit(name, tuple(row[1] for row in unit), spans))
    return work_units
