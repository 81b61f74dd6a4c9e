"""A run's segments as labelled clips to train on: audio from the corpus' own files, a unit for each frame.

    RUN/segments/, RUN/units/, RUN/codebook/ -> clips of train and validation

The run's encoder made the labels: MFCC in HuBERT's first iteration, a layer of the previous model in later ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ, LabelClock
from pipeline.runs import CODEBOOK, UNITS
from pipeline.segments.segment import read_segments
from pipeline.stage import fingerprint_of
from pipeline.units import codebook
from pipeline.units.parts import read_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.units.codebook import Codebook

COLUMNS = ("segment_id", "recording_id", "start_s", "end_s", "num_frames", "units", "durations")


@dataclass(frozen=True)
class SegmentClips:
    """Segments as clips; `table` has the columns uri, channel, start_s, end_s, units and durations."""

    table: pa.Table
    num_samples: NDArray[np.int64]
    codebook_size: int
    clock: LabelClock
    fingerprint: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """wav [S] at 16 kHz and the unit of each frame [F].

        Raises:
            TwistError: the audio can no longer be read.
        """
        row = self.table.slice(index, 1).to_pylist()[0]
        (wav,) = read_spans([Span(row["uri"], row["channel"], row["start_s"], row["end_s"])])
        if isinstance(wav, AudioError):
            raise TwistError(f"{row['uri']} was tokenized but can no longer be read: {wav}")
        missing = max(0, int(self.num_samples[index]) - len(wav))  # times are rounded, by a sample or two
        wav = np.pad(wav, (0, missing))[: self.num_samples[index]]
        return wav, np.repeat(np.array(row["units"], np.uint16), row["durations"])


def read_clips(run: str, validation_share: float) -> tuple[SegmentClips, SegmentClips]:
    """The clips of a tokenized run: those to train on, and those of recordings kept for validation.

    Args:
        run: Folder of a run whose units are finished.
        validation_share: Share of recordings to keep for validation, chosen by a stable hash.

    Raises:
        TwistError: the run is not tokenized, or one of the two would be empty.
    """
    units_fingerprint = fingerprint_of(run, UNITS)
    book = codebook.load(storage.join(run, CODEBOOK))
    clock = _label_clock(book, run)
    kept = pa.concat_tables(
        part.filter(pc.is_null(part["drop_reason"])).select(COLUMNS).replace_schema_metadata(None)
        for part in read_parts(run)
    )
    segments = read_segments(run)
    rows_in_plan = pc.index_in(kept["segment_id"], segments["segment_id"].combine_chunks())
    for name in ("uri", "channel"):
        kept = kept.append_column(name, segments[name].take(rows_in_plan))
    fractions = np.array([hash_fraction(recording_id) for recording_id in kept["recording_id"].to_pylist()])
    clips = []
    for name, is_in in (("train", fractions >= validation_share), ("validation", fractions < validation_share)):
        rows = kept.filter(pa.array(is_in))
        if not len(rows):
            raise TwistError(
                f"{run} leaves no recording for {name} with validation_share {validation_share:g}; change it, "
                f"or give more recordings"
            )
        durations_s = pc.subtract(rows["end_s"], rows["start_s"]).to_numpy()
        clips.append(
            SegmentClips(
                rows.combine_chunks(),
                np.rint(durations_s * SAMPLE_RATE_HZ).astype(np.int64),
                book.codebook_size,
                clock,
                f"{units_fingerprint}/{validation_share:g}",
            )
        )
    return clips[0], clips[1]


def _label_clock(book: Codebook, run: str) -> LabelClock:
    encoder = book.facts["encoder"]
    if "min_samples" not in encoder:
        raise TwistError(f"the codebook of {run} does not tell what its frames are made of; make the run anew")
    chunk_samples = round(encoder["max_chunk_s"] * SAMPLE_RATE_HZ)
    return LabelClock(encoder["hop_samples"], encoder["min_samples"], chunk_samples)


def hash_fraction(id: str) -> float:
    """A hash of a recording's or speaker's id, from 0 to below 1."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") / 2**64
