"""A run's segments as clips of speech, and the phones that alignments give for some of them.

    RUN/segments/, alignments in files -> clips of train and validation

An alignment in a folder for all corpora belongs to a recording if its name is the recording's path, without the suffix,
below that folder: `twist make-speech voices` writes them so. In a folder for one corpus, it belongs to the recording of
that corpus whose path ends with its name: most aligners write them so, in a tree of the same shape.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.errors import TwistError
from pipeline.evaluation.units.alignments import SILENCE, labels_at, read_alignments
from pipeline.files import storage
from pipeline.language.filter import kept_recordings
from pipeline.records import NO_PHONE, SAMPLE_RATE_HZ
from pipeline.runs import SEGMENTS
from pipeline.segments.segment import read_segments
from pipeline.stage import fingerprint_of
from pipeline.units.labelled_clips import hash_fraction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.units.alignments import Interval


@dataclass(frozen=True)
class SegmentClips:
    """Segments as clips; `table` has the columns of SEGMENT_SCHEMA."""

    table: pa.Table
    num_samples: NDArray[np.int64]
    corpora: NDArray[np.int64]
    fingerprint: str
    phone_names: tuple[str, ...]
    phone_sets: NDArray[np.bool_]
    alignments: Mapping[str, list[Interval]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """wav [S] at 16 kHz.

        Raises:
            TwistError: the audio cannot be read.
        """
        row = self.table.slice(index, 1).to_pylist()[0]
        (wav,) = read_spans([Span(row["uri"], row["channel"], row["start_s"], row["end_s"])])
        if isinstance(wav, AudioError):
            raise TwistError(f"{row['uri']} has segments but can no longer be read: {wav}")
        missing = max(0, int(self.num_samples[index]) - len(wav))  # times are rounded, by a sample or two
        return np.pad(wav, (0, missing))[: self.num_samples[index]]

    def phones_at(self, index: int, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """The phone at each time since the segment's start: its number, or NO_PHONE."""
        row = self.table.slice(index, 1).to_pylist()[0]
        intervals = self.alignments.get(row["uri"])
        if intervals is None:
            return np.full(len(times_s), NO_PHONE)
        number_of = {name: number for number, name in enumerate(self.phone_names)}
        labels = labels_at(times_s + row["start_s"], intervals)
        # Between and beside its phones, an alignment has silence.
        return np.array([number_of[SILENCE if label is None else label] for label in labels])


def read_spoken_clips(
    run: str, validation_share: float, phones: str | Mapping[str, str] | None
) -> tuple[SegmentClips, SegmentClips]:
    """The clips of a run whose segments are known: those to train on, and those of recordings kept for validation.

    Args:
        run: Folder of a run that has been segmented.
        validation_share: Share of recordings to keep for validation, chosen by a stable hash.
        phones: Folder of alignments, or one for each corpus by its name, or null.

    Raises:
        TwistError: the run has no segments, one of the two would be empty, no recording has an alignment, or two
            have the same.
    """
    segments_fingerprint = fingerprint_of(run, SEGMENTS)
    segments = read_segments(run)
    corpus_of = {recording.recording_id: recording.corpus for recording in kept_recordings(run)}
    corpora = [corpus_of[recording_id] for recording_id in segments["recording_id"].to_pylist()]
    number_of = {name: number for number, name in enumerate(sorted(set(corpora)))}
    segments = segments.append_column("corpus_number", pa.array([number_of[name] for name in corpora], pa.int64()))
    corpus_of_uri = dict(zip(segments["uri"].to_pylist(), corpora, strict=True))
    alignments = _alignments_of(corpus_of_uri, phones) if phones else {}
    kinds = {name: {SILENCE} for name in number_of} if alignments else {}
    for uri, intervals in alignments.items():
        kinds[corpus_of_uri[uri]] |= {interval.label for interval in intervals}
    names = tuple(sorted(set().union(*kinds.values())))
    sets = np.array([[name in of_corpus for name in names] for of_corpus in kinds.values()], bool)
    said = hashlib.sha256(json.dumps(_as_json(alignments), sort_keys=True).encode()).hexdigest() if phones else ""
    fractions = np.array([hash_fraction(recording_id) for recording_id in segments["recording_id"].to_pylist()])
    clips = []
    for name, is_in in (("train", fractions >= validation_share), ("validation", fractions < validation_share)):
        rows = segments.filter(pa.array(is_in)).combine_chunks()
        if not len(rows):
            raise TwistError(
                f"{run} leaves no recording for {name} with validation_share {validation_share:g}; change it, "
                f"or give more recordings"
            )
        durations_s = pc.subtract(rows["end_s"], rows["start_s"]).to_numpy()
        clips.append(
            SegmentClips(
                rows,
                np.rint(durations_s * SAMPLE_RATE_HZ).astype(np.int64),
                rows["corpus_number"].to_numpy(),
                f"{segments_fingerprint}/{validation_share:g}/{said}",
                names,
                sets.reshape(len(number_of), len(names)),
                alignments,
            )
        )
    return clips[0], clips[1]


def _alignments_of(corpus_of_uri: Mapping[str, str], places: str | Mapping[str, str]) -> dict[str, list[Interval]]:
    """The alignments in a folder, or in one for each corpus, by the recording they are of."""
    if isinstance(places, str):
        return _of_recordings_below(list(corpus_of_uri), places)
    found: dict[str, list[Interval]] = {}
    for corpus, place in places.items():
        uris = [uri for uri, name in corpus_of_uri.items() if name == corpus]
        if not uris:
            raise TwistError(
                f"spin.phones names the corpus {corpus}, of which the run has no segment; it has "
                f"{', '.join(sorted(set(corpus_of_uri.values())))}"
            )
        found |= _of_recordings_that_end_so(uris, place)
    return found


def _of_recordings_below(uris: Sequence[str], place: str) -> dict[str, list[Interval]]:
    found, _ = read_alignments(place)
    base = _absolute(place).rstrip("/") + "/"
    of_recording = {}
    for uri in uris:
        path = _absolute(uri)
        name = path.removeprefix(base).rpartition(".")[0]
        if path.startswith(base) and name in found:
            of_recording[uri] = found[name]
    if not of_recording:
        raise TwistError(
            f"spin.phones {place} has alignments, but none of a recording of this run: name the folder that lies as "
            f"the recordings do, with the same paths below it; or name the corpus that they are of, as in "
            f"phones: {{CORPUS: {place}}}"
        )
    return of_recording


def _of_recordings_that_end_so(uris: Sequence[str], place: str) -> dict[str, list[Interval]]:
    found, _ = read_alignments(place)
    of_recording: dict[str, list[Interval]] = {}
    uri_of: dict[str, str] = {}
    for uri in uris:
        parts = _absolute(uri).rpartition(".")[0].split("/")
        names = ("/".join(parts[first:]) for first in range(len(parts)))
        name = next((name for name in names if name in found), None)
        if name is None:
            continue
        if name in uri_of:
            raise TwistError(f"spin.phones: the alignment {name} in {place} may be of {uri_of[name]} or of {uri}")
        uri_of[name] = uri
        of_recording[uri] = found[name]
    if not of_recording:
        raise TwistError(
            f"spin.phones {place} has {len(found):,} alignments, such as {next(iter(found))}, but none of a "
            f"recording of its corpus, such as {uris[0]}"
        )
    return of_recording


def _absolute(uri: str) -> str:
    return uri if storage.is_s3(uri) else str(Path(uri).resolve())


def _as_json(alignments: Mapping[str, list[Interval]]) -> dict[str, list[dict[str, object]]]:
    return {uri: [asdict(interval) for interval in intervals] for uri, intervals in alignments.items()}
