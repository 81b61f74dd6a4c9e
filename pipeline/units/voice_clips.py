"""A run's segments as clips to train a voice on: audio and units, and if it takes them, codes of pitch and style and
who speaks.

    RUN/pitch/part-*.parquet    segment_id, pitch: codes at a fixed rate
    RUN/style/part-*.parquet    segment_id, style
    RUN/manifest/               the speakers of recordings

A segment of which one of these is not known is left out. Speakers are numbered by how often they speak in what is
trained on, the most frequent first; segments of others are left out of validation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.vocoder.batches import CodeFacts, Conditions
from pipeline.corpora.manifest import iterate_tables
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.runs import part_files
from pipeline.stage import digest, is_finished, read_facts
from pipeline.units.labelled_clips import SegmentClips, read_clips

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.vocoder.config import VocoderConfig
    from pipeline.records import LabelClock


@dataclass(frozen=True)
class SegmentVoiceClips:
    """Segments with what is known of them beside their units.

    Attributes:
        clips: The segments.
        codes: Which codes they have.
        speakers: The names of the speakers, by number.
        num_left_out: Segments of which something is not known.
        codes_of: The codes of each segment, by `pitch` and `style`: a list of uint16 a segment.
        speaker_of: The number of each segment's speaker, [N]; None where they are not told.
    """

    clips: SegmentClips
    codes: dict[str, CodeFacts]
    speakers: tuple[str, ...]
    num_left_out: int
    codes_of: dict[str, pa.ChunkedArray]
    speaker_of: NDArray[np.int64] | None

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Length of each clip at 16 kHz, [N]."""
        return self.clips.num_samples

    @property
    def codebook_size(self) -> int:
        """Number of different units."""
        return self.clips.codebook_size

    @property
    def clock(self) -> LabelClock:
        """The time of each unit."""
        return self.clips.clock

    @property
    def fingerprint(self) -> str:
        """Identifies the clips, with their units, codes and speakers."""
        if not self.codes and not self.speakers:
            return self.clips.fingerprint
        content: list[str | bytes] = [facts.fingerprint for _, facts in sorted(self.codes.items())]
        content += [pc.list_flatten(codes).to_numpy().tobytes() for _, codes in sorted(self.codes_of.items())]
        if self.speaker_of is not None:
            content.append(self.speaker_of.tobytes())
        return f"{self.clips.fingerprint}/{digest(*content, *self.speakers)[:16]}"

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """wav [S] at 16 kHz and the unit of each frame [F].

        Raises:
            TwistError: the audio can no longer be read.
        """
        return self.clips[index]

    def conditions(self, index: int) -> Conditions:
        """The codes of a clip and the number of its speaker."""
        codes = {name: np.asarray(of_all[index].as_py(), np.uint16) for name, of_all in self.codes_of.items()}
        return Conditions(codes, None if self.speaker_of is None else int(self.speaker_of[index]))


def read_voice_clips(
    run: str, validation_share: float, model: VocoderConfig
) -> tuple[SegmentVoiceClips, SegmentVoiceClips]:
    """The clips of a tokenized run with all that a vocoder takes: those to train on, and those for validation.

    Args:
        run: Folder of a run whose units are finished, and whose codes are, if the vocoder takes them.
        validation_share: Share of recordings to keep for validation, chosen by a stable hash.
        model: The vocoder's shape.

    Raises:
        TwistError: the run is not tokenized, lacks codes or speakers, or one of the two would be empty.
    """
    both = read_clips(run, validation_share)
    tables = {name: _codes(run, name) for name in model.num_codes}
    facts = {name: _facts(run, name) for name in tables}
    names = _speakers(run) if model.multispkr else None
    train = _with_conditions(both[0], tables, facts, names, None)
    validation = _with_conditions(both[1], tables, facts, names, train.speakers)
    for what, clips in (("train on", train), ("validate on", validation)):
        if not len(clips):
            needed = " and ".join([*tables, *(["speaker"] if names else [])])
            raise TwistError(f"{run} has no segment to {what} of which {needed} are known")
    return train, validation


def _with_conditions(
    clips: SegmentClips,
    tables: dict[str, pa.Table],
    facts: dict[str, CodeFacts],
    names: dict[str, str] | None,
    known: Sequence[str] | None,
) -> SegmentVoiceClips:
    """The clips of which all is known; `known` are the speakers, by number, or None to number them."""
    table = clips.table
    is_known = np.ones(len(table), np.bool_)
    columns: dict[str, pa.ChunkedArray] = {}
    for name, codes in tables.items():
        places = pc.index_in(table["segment_id"], codes["segment_id"].combine_chunks())
        columns[name] = codes[name].take(places)
        lengths = pc.fill_null(pc.list_value_length(columns[name]), 0)
        is_known &= lengths.to_numpy() > 0
    spoken_by: list[str | None] = []
    if names is not None:
        spoken_by = [names.get(recording_id) for recording_id in table["recording_id"].to_pylist()]
        if known is None:
            counts = Counter(name for name, is_one in zip(spoken_by, is_known, strict=True) if name and is_one)
            known = tuple(sorted(counts, key=lambda name: (-counts[name], name)))
        number_of = {name: number for number, name in enumerate(known)}
        is_known &= np.array([name in number_of for name in spoken_by], np.bool_)
    kept = pa.array(is_known)
    speaker_of = None
    if names is not None:
        speaker_of = np.array(
            [number_of[name] for name, is_one in zip(spoken_by, is_known, strict=True) if name and is_one], np.int64
        )
    return SegmentVoiceClips(
        SegmentClips(
            table.filter(kept).combine_chunks(),
            clips.num_samples[is_known],
            clips.codebook_size,
            clips.clock,
            clips.fingerprint,
        ),
        facts,
        tuple(known or ()),
        int((~is_known).sum()),
        {name: column.filter(kept) for name, column in columns.items()},
        speaker_of,
    )


def _codes(run: str, name: str) -> pa.Table:
    """The codes of all segments that have some.

    Raises:
        TwistError: the stage is not finished, or a part is damaged.
    """
    if not is_finished(run, name):
        raise TwistError(f"{run} has no codes of {name}, which this vocoder takes; run `twist {name}` on it first")
    parts = part_files(storage.join(run, name))
    tables = [table.replace_schema_metadata(None) for table in parquet.read_many(parts, ["segment_id", name])]
    if not tables:
        raise TwistError(f"{run} has no parts with codes of {name}; run `twist {name}` on it again")
    return pa.concat_tables(tables)


def _facts(run: str, name: str) -> CodeFacts:
    told = read_facts(run, name)[f"{name}_model"]
    return CodeFacts(float(told["rate_hz"]), int(told["num_codes"]), str(told["fingerprint"]))


def _speakers(run: str) -> dict[str, str]:
    """The speakers of recordings, of those that name theirs.

    Raises:
        TwistError: none does.
    """
    found: dict[str, str] = {}
    for table in iterate_tables(run, ["recording_id", "speaker"]):
        found.update((row["recording_id"], row["speaker"]) for row in table.to_pylist() if row["speaker"] is not None)
    if not found:
        raise TwistError(f"{run} knows no speaker; leave vocoder.model.multispkr out, or name them in the corpus")
    return found
