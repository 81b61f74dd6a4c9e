"""Cuts the clips of a report out of the original recordings, with what the run knows of each."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import stage
from pipeline.audio.read import AudioError, Span, read_clips
from pipeline.corpora.manifest import iterate_tables
from pipeline.files import parquet, storage
from pipeline.language.filter import DECISIONS
from pipeline.records import RECORDING_SCHEMA
from pipeline.report.clips import Clip, HeardClip, Region, unit_blocks
from pipeline.report.wanted import recordings_of
from pipeline.runs import LANGUAGE, SEGMENTS, UNITS, WORDS, part_file, stage_of
from pipeline.segments.segment import open_segments
from pipeline.shards import read_sample
from pipeline.units.parts import read_part
from pipeline.words.parts import read_part as read_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.audio.voice_activity import SpeechDetector
    from pipeline.report.clips import ClipWriter
    from pipeline.report.wanted import Wanted
    from pipeline.shards import Dataset

# Seconds that are heard on each side of a segment.
AROUND_S = 1.0
# Of a text, in characters.
LONGEST_TEXT = 600


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

    columns = [name for name in RECORDING_SCHEMA.names if name not in ("origins", "origin_start_s", "origin_end_s")]
    known = Known({row["recording_id"]: row for table in iterate_tables(run, columns) for row in of(table)})
    if stage.is_finished(run, LANGUAGE):
        for table in parquet.iterate(storage.join(run, LANGUAGE, DECISIONS)):
            known.decisions.update({row["recording_id"]: row for row in of(table)})
    if stage.is_finished(run, SEGMENTS):
        with open_segments(run) as groups:
            for table in groups:
                for row in of(table):
                    known.segments.setdefault(row["recording_id"], []).append(row)
    return known


class Cutter:
    """Makes clips.

    Args:
        run: The run.
        dataset: Its shards, where they are finished.
        known: What `look_up` has found.
        colours: Of units.
        frame_rate_hz: Of units.
        max_s: The longest clip.
        writer: Where audio goes; None: nothing is read of it.
    """

    def __init__(
        self,
        run: str,
        dataset: Dataset | None,
        known: Known,
        colours: Sequence[str],
        frame_rate_hz: float,
        max_s: float,
        writer: ClipWriter | None,
    ) -> None:
        self._run, self._dataset, self._known = run, dataset, known
        self._colours, self._frame_rate_hz = colours, frame_rate_hz
        self._max_s, self._writer = max_s, writer
        self._detector: SpeechDetector | None = None

    def cut(self, wanted: Wanted) -> Clip:
        """The clip of one segment with a second around it, or of the beginning of a recording.

        Raises:
            TwistError: a shard or a part is damaged.
        """
        recording_id, _, times = wanted.id.rpartition("#") if wanted.counts == "segments" else (wanted.id, "", "")
        recording = self._known.recordings.get(recording_id)
        if recording is None:
            missing = "it was left out before the manifest, which does not list it"
            return Clip(wanted.id, wanted.fate, wanted.detail, HeardClip(0.0, missing=missing))
        segments = self._known.segments.get(recording_id, [])
        this = next((segment for segment in segments if segment["segment_id"] == wanted.id), None)
        start_s, end_s = _times(this, times) if wanted.counts == "segments" else (0.0, recording["duration_s"])
        around_s = AROUND_S if wanted.counts == "segments" else 0.0
        first_s = max(0.0, start_s - around_s)
        last_s = min(recording["duration_s"], end_s + around_s, first_s + self._max_s)
        heard, speech = self._hear(recording, first_s, last_s)
        shown_s = last_s - first_s
        units, durations = self._units(wanted, this)
        return Clip(
            wanted.id,
            wanted.fate,
            wanted.detail,
            heard,
            speech,
            tuple(
                Region(
                    max(0.0, segment["start_s"] - first_s),
                    min(shown_s, segment["end_s"] - first_s),
                    "this" if segment is this else "other",
                )
                for segment in segments
                if segment["end_s"] > first_s and segment["start_s"] < last_s
            ),
            unit_blocks(units, durations, self._frame_rate_hz, self._colours, start_s - first_s, shown_s),
            *self._text(recording, this),
            tuple(self._facts(wanted, recording, start_s, end_s)),
            _command(self._run, wanted.id) if self._writer else "",
        )

    def _hear(self, recording: dict[str, Any], first_s: float, last_s: float) -> tuple[HeardClip, tuple[Region, ...]]:
        told = recording["voice_activity"]
        regions = tuple(
            Region(max(0.0, on_s - first_s), min(last_s, off_s) - first_s)
            for on_s, off_s in told or ()
            if off_s > first_s and on_s < last_s
        )
        if self._writer is None:
            return HeardClip(last_s - first_s, missing="the report was made without audio"), regions
        span = Span(recording["uri"], recording["channel"], first_s, last_s)
        (found,) = read_clips([span])
        if isinstance(found, AudioError):
            return HeardClip(last_s - first_s, missing=f"it cannot be read: {found}"), regions
        heard = self._writer.write(found.wav)
        return heard, regions if told is not None else self._detect(found.wav)

    def _detect(self, wav: NDArray[np.float32]) -> tuple[Region, ...]:
        """Speech as the run's own detector finds it in this clip."""
        if self._detector is None:
            from pipeline.audio.voice_activity import SpeechDetector

            is_cut = stage.is_finished(self._run, SEGMENTS)
            config = stage.read_facts(self._run, SEGMENTS)["config"] if is_cut else {}
            self._detector = SpeechDetector(config.get("speech_threshold", 0.5))
        return tuple(Region(on_s, off_s) for on_s, off_s in self._detector(wav))

    def _units(self, wanted: Wanted, segment: dict[str, Any] | None) -> tuple[list[int], list[int]]:
        """Units and durations of the segment, as far as it has any."""
        if wanted.row and self._dataset and segment is None:  # several segments make up the sample
            sample = read_sample(self._dataset.uri, wanted.row)
            return sample.units.tolist(), sample.durations.tolist()
        uri = storage.join(self._run, UNITS, part_file(segment["work_unit"])) if segment is not None else ""
        if not uri or not storage.exists(uri):
            return [], []
        part = read_part(uri)
        rows = part.filter(pc.equal(part["segment_id"], wanted.id)).to_pylist()
        return (rows[0]["units"] or [], rows[0]["durations"] or []) if rows else ([], [])

    def _text(
        self, recording: dict[str, Any], segment: dict[str, Any] | None
    ) -> tuple[str, Literal["segment", "recording"]]:
        """The words of a segment where they are aligned; else the text of its recording."""
        if segment is not None and stage.is_finished(self._run, WORDS):
            part = read_words(storage.join(self._run, WORDS, part_file(segment["work_unit"])))
            (row,) = part.filter(pc.equal(part["segment_id"], segment["segment_id"])).to_pylist()
            if row["words"]:
                return " ".join(word["word"] for word in row["words"]), "segment"
        text = recording["text"] or ""
        return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …", "recording"

    def _facts(self, wanted: Wanted, recording: dict[str, Any], start_s: float, end_s: float) -> list[tuple[str, str]]:
        facts = [
            ("corpus", recording["corpus"]),
            ("speaker", recording["speaker"] or "not stated"),
            ("language", self._language(recording)),
            ("times", f"{start_s:.2f} to {end_s:.2f} s of {recording['duration_s']:.2f} s"),
            ("recorded at", _format(recording)),
            ("file", recording["uri"]),
        ]
        if wanted.row:
            facts.append(("split", wanted.row["split"]))
            facts.append(("shard", f"{wanted.row['shard']}, byte {wanted.row['offset']:,}"))
        elif wanted.fate != "kept":
            facts.append(("dropped by", stage_command(wanted.stage)))
        return facts

    def _language(self, recording: dict[str, Any]) -> str:
        decision = self._known.decisions.get(recording["recording_id"])
        if decision is None:
            return recording["language"] or "not stated"
        score = "" if decision["score"] is None else f", probability {decision['score']:.2f}"
        evidence = "no evidence" if decision["evidence"] == "none" else f"by {decision['evidence']}"
        return f"{decision['language'] or 'unknown'} ({evidence}{score})"


def stage_command(name: str) -> str:
    """The command of a stage, as a user gives it."""
    return f"twist {stage_of(name).command}"


def _times(segment: dict[str, Any] | None, times: str) -> tuple[float, float]:
    """Start and end in seconds: of the segment's row, or of a sample of several as its id says them."""
    if segment is not None:
        return segment["start_s"], segment["end_s"]
    start_ms, _, end_ms = times.partition("-")
    return int(start_ms) / 1000, int(end_ms) / 1000


def _format(recording: dict[str, Any]) -> str:
    rate_hz, channels = recording["sample_rate_hz"], recording["num_channels"]
    parts = [
        f"{rate_hz / 1000:g} kHz" if rate_hz else "",
        f"{channels} channel{'s'[: channels != 1]}" if channels else "",
    ]
    if recording["channel"] is not None:
        parts.append(f"of which channel {recording['channel']}")
    return ", ".join(filter(None, parts)) or "not read"


def _command(run: str, id: str) -> str:
    return f"twist trace {shlex.quote(id)} --run {shlex.quote(run)} --play-to clip.wav"
