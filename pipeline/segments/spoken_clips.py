"""A run's segments as clips of speech, and the phones that alignments give for some of them.

RUN/segments/, alignments in files (clip_phones.py) -> clips of train and validation
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.errors import TwistError
from pipeline.evaluation.units.alignments import SILENCE
from pipeline.language.filter import kept_recordings
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.runs import SEGMENTS
from pipeline.segments.clip_phones import ClipPhones, read_clip_phones
from pipeline.segments.segment import read_segments
from pipeline.stage import fingerprint_of
from pipeline.units.labelled_clips import hash_fraction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class SegmentClips:
    """Segments as clips; `table` has the columns of SEGMENT_SCHEMA."""

    table: pa.Table
    num_samples: NDArray[np.int64]
    corpora: NDArray[np.int64]
    fingerprint: str
    phones: ClipPhones
    phone_sets: NDArray[np.bool_]

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
        return self.phones.at(row["uri"], times_s + row["start_s"])


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
    said = read_clip_phones(corpus_of_uri, phones) if phones else ClipPhones({}, ())
    sets = np.zeros((len(number_of), len(said.names)), bool)
    for uri, spoken in said.of_recording.items():
        sets[number_of[corpus_of_uri[uri]], spoken.numbers] = True
    if said.names:
        sets[:, said.names.index(SILENCE)] = True
    # Where several corpora have phones, each frame's compete with those of its corpus.
    is_by_corpus = len({corpus_of_uri[uri] for uri in said.of_recording}) > 1
    of_phones = (said.fingerprint() if phones else "") + ("/by corpus" if is_by_corpus else "")
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
                f"{segments_fingerprint}/{validation_share:g}/{of_phones}",
                said,
                sets,
            )
        )
    return clips[0], clips[1]
