"""Cuts the clips of a report out of the original recordings, with what the run knows of each."""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from model.lm.mixture.spans import draw_speech, span_starts
from pipeline import stage
from pipeline.audio.read import AudioError, read_clips
from pipeline.audio.read import Span as AudioSpan
from pipeline.files import storage
from pipeline.files.find_rows import find_rows
from pipeline.report.clips import Clip, HeardClip, Region, Span, code_blocks, unit_blocks
from pipeline.report.wanted import recordings_of
from pipeline.runs import PITCH, SEGMENTS, STYLE, UNITS, WORDS, part_file, stage_of
from pipeline.shards import GROUPS, read_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.audio.voice_activity import SpeechDetector
    from pipeline.report.as_trained import AsTrained
    from pipeline.report.clips import ClipWriter, CodeBlock, UnitBlock
    from pipeline.report.known import Known
    from pipeline.report.wanted import Wanted
    from pipeline.shards import Dataset

# Seconds that are heard on each side of a segment.
AROUND_S = 1.0
# Of a text, in characters.
LONGEST_TEXT = 600
MOST_UNITS_SAID = 60


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
        as_trained: How speech and text alternate.
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
        as_trained: AsTrained,
    ) -> None:
        self._run, self._dataset, self._known = run, dataset, known
        self._colours, self._frame_rate_hz = colours, frame_rate_hz
        self._max_s, self._writer = max_s, writer
        self._as_trained = as_trained
        self._detector: SpeechDetector | None = None
        # Codes a second.
        self._rates_hz = {
            name: float(stage.read_facts(run, name)[f"{name}_model"]["rate_hz"])
            for name in (PITCH, STYLE)
            if stage.is_finished(run, name)
        }

    def cut(self, wanted: Wanted) -> Clip:
        """The clip of a segment, or of a sample of several, with a second around it, or of a recording's beginning.

        Raises:
            TwistError: a shard or a part is damaged.
        """
        (recording_id,) = recordings_of([wanted])
        recording = self._known.recordings.get(recording_id)
        if recording is None:
            missing = "it was left out before the manifest, which does not list it"
            return Clip(wanted.id, wanted.fate, wanted.detail, HeardClip(0.0, missing=missing))
        segments = self._known.segments.get(recording_id, [])
        ids = self._segments_of(wanted)
        these = [segment for segment in segments if segment["segment_id"] in ids]
        start_s = these[0]["start_s"] if these else 0.0
        end_s = these[-1]["end_s"] if these else recording["duration_s"]
        around_s = AROUND_S if these else 0.0
        first_s = max(0.0, start_s - around_s)
        last_s = min(max(recording["duration_s"], end_s), end_s + around_s, first_s + self._max_s)
        heard, speech = self._hear(recording, first_s, last_s)
        shown = [one for one in segments if one["end_s"] > first_s and one["start_s"] < last_s]
        return Clip(
            wanted.id,
            wanted.fate,
            wanted.detail,
            heard,
            speech,
            tuple(
                Region(
                    max(first_s, segment["start_s"]) - first_s,
                    min(last_s, segment["end_s"]) - first_s,
                    "this" if segment["segment_id"] in ids else "other",
                )
                for segment in shown
            ),
            tuple(block for one in these if one in shown for block in self._units(one, first_s, last_s)),
            self._codes(PITCH, these, first_s, last_s),
            self._codes(STYLE, these, first_s, last_s),
            self._spans(wanted, these, first_s, last_s) if wanted.is_interleaved else (),
            *self._text(recording, these),
            tuple(self._facts(wanted, recording, start_s, end_s)),
            _command(self._run, wanted.id) if self._writer else "",
        )

    def _segments_of(self, wanted: Wanted) -> set[str]:
        """The ids of the segments that a clip is about; none of a recording."""
        if wanted.counts != "segments":
            return set()
        if wanted.row and self._dataset and storage.exists(storage.join(self._dataset.uri, GROUPS)):
            return set(read_sample(self._dataset.uri, wanted.row).segments) or {wanted.id}
        return {wanted.id}

    def _hear(self, recording: dict[str, Any], first_s: float, last_s: float) -> tuple[HeardClip, tuple[Region, ...]]:
        told = recording["voice_activity"]
        regions = tuple(
            Region(max(0.0, on_s - first_s), min(last_s, off_s) - first_s)
            for on_s, off_s in told or ()
            if off_s > first_s and on_s < last_s
        )
        if self._writer is None:
            return HeardClip(last_s - first_s, missing="the report was made without audio"), regions
        span = AudioSpan(recording["uri"], recording["channel"], first_s, last_s)
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

    def _units(self, segment: dict[str, Any], first_s: float, last_s: float) -> tuple[UnitBlock, ...]:
        """The units of a segment, as far as it has any, in a clip between these times."""
        rows = self._rows(UNITS, segment)
        units, durations = (rows[0]["units"] or [], rows[0]["durations"] or []) if rows else ([], [])
        start_s = segment["start_s"] - first_s
        return unit_blocks(units, durations, self._frame_rate_hz, self._colours, start_s, last_s - first_s)

    def _codes(
        self, stream: str, segments: Sequence[dict[str, Any]], first_s: float, last_s: float
    ) -> tuple[CodeBlock, ...]:
        """The codes of pitch or style of segments, as far as they have any, in a clip between these times."""
        if stream not in self._rates_hz:
            return ()
        return tuple(
            block
            for segment in segments
            for row in self._rows(stream, segment)
            for block in code_blocks(
                row[stream] or [], self._rates_hz[stream], segment["start_s"] - first_s, last_s - first_s
            )
        )

    def _rows(self, name: str, segment: dict[str, Any]) -> list[dict[str, Any]]:
        """What a stage's part says of a segment; nothing where the part is not there yet."""
        uri = storage.join(self._run, name, part_file(segment["work_unit"]))
        if not storage.exists(uri):
            return []
        rows: list[dict[str, Any]] = find_rows(uri, "segment_id", [segment["segment_id"]]).to_pylist()
        return rows

    def _spans(
        self, wanted: Wanted, segments: Sequence[dict[str, Any]], first_s: float, last_s: float
    ) -> tuple[Span, ...]:
        """The spans of a sample, as its place in its shard draws them; none where its words are not these segments'."""
        assert self._dataset is not None and wanted.row is not None, "only what is packed is interleaved"
        sample = read_sample(self._dataset.uri, wanted.row)
        timed = [
            Region(begin_s + word["start_s"], begin_s + word["end_s"], word["word"])
            for segment in segments
            for begin_s in (segment["start_s"] - first_s,)
            for row in self._rows(WORDS, segment)
            for word in row["words"] or ()
        ]
        if sample.words is None or [one.label for one in timed] != [word for word, _, _ in sample.words.timed]:
            return ()
        count = np.array([len(timed)])
        place = np.array([wanted.row["index"]])
        is_speech = draw_speech(count, place, self._as_trained.seed, self._as_trained.spans)
        starts = np.flatnonzero(span_starts(is_speech, count)).tolist()
        # As in training, a word reaches to the middle of the gap to the next.
        cuts = [(one.end_s + after.start_s) / 2 for one, after in itertools.pairwise(timed)]
        cuts = [segments[0]["start_s"] - first_s, *cuts, segments[-1]["end_s"] - first_s]
        spans = []
        for start, end in zip(starts, [*starts[1:], len(timed)], strict=True):
            units = sample.units[sample.words.table[start, 1] : sample.words.table[end - 1, 2]]
            words = timed[start:end]
            spans.append(
                Span(
                    cuts[start],
                    min(cuts[end], last_s - first_s),
                    "speech" if is_speech[start] else "text",
                    tuple(word for word in words if word.end_s <= last_s - first_s),
                    _first_units(units) if is_speech[start] else " ".join(word.label for word in words),
                )
            )
        return tuple(span for span in spans if span.start_s < last_s - first_s)

    def _text(
        self, recording: dict[str, Any], segments: Sequence[dict[str, Any]]
    ) -> tuple[str, Literal["segment", "recording"]]:
        """The words of segments where they are aligned; else the text of their recording."""
        words = []
        for segment in segments if stage.is_finished(self._run, WORDS) else ():
            for row in self._rows(WORDS, segment):
                words += [word["word"] for word in row["words"] or ()]
        text = " ".join(words) or recording["text"] or ""
        shortened = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"
        return shortened, "segment" if words else "recording"

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
            facts.append(("dropped by", f"twist {stage_of(wanted.stage).command}"))
        return facts

    def _language(self, recording: dict[str, Any]) -> str:
        decision = self._known.decisions.get(recording["recording_id"])
        if decision is None:
            return recording["language"] or "not stated"
        score = "" if decision["score"] is None else f", probability {decision['score']:.2f}"
        evidence = "no evidence" if decision["evidence"] == "none" else f"by {decision['evidence']}"
        return f"{decision['language'] or 'unknown'} ({evidence}{score})"


def _first_units(units: NDArray[np.unsignedinteger]) -> str:
    left = len(units) - MOST_UNITS_SAID
    return " ".join(map(str, units[:MOST_UNITS_SAID].tolist())) + (f" … {left} more" if left > 0 else "")


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
