"""A run's segments as clips to train a voice on: audio and units, and if it takes them, codes of pitch and style and
who speaks.

    RUN/pitch/part-*.parquet    segment_id, pitch: codes at a fixed rate; f0_mean_hz
    RUN/style/part-*.parquet    segment_id, style
    RUN/manifest/               the speakers of recordings

A segment of which one of these is not known is left out. Speakers are numbered by how often they speak in what is
trained on, the most frequent first; segments of others are left out of validation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.pitch.checkpoint import fingerprint_of, load_pitch_model, local_pitch_model
from model.vocoder.batches import CodeFacts, Conditions
from model.vocoder.melody import Melody
from pipeline.corpora.manifest import iterate_tables
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.runs import part_files
from pipeline.stage import digest, is_finished, read_facts
from pipeline.units.labelled_clips import SegmentClips, read_clips

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.pitch.vqvae import PitchVQVAE
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
        f0_means_hz: The mean F0 of each segment's voiced frames, [N], NaN where it has none; None if not asked for.
        melody: What codes of pitch say, for a vocoder with a source.
    """

    clips: SegmentClips
    codes: dict[str, CodeFacts]
    speakers: tuple[str, ...]
    num_left_out: int
    codes_of: dict[str, pa.ChunkedArray]
    speaker_of: NDArray[np.int64] | None
    f0_means_hz: NDArray[np.float64] | None = None
    melody: Melody | None = None

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
        if self.f0_means_hz is not None:
            content.append(self.f0_means_hz.tobytes())
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
        """The codes of a clip, the number of its speaker, and its mean F0."""
        codes = {name: np.asarray(of_all[index].as_py(), np.uint16) for name, of_all in self.codes_of.items()}
        mean_hz = None if self.f0_means_hz is None or np.isnan(self.f0_means_hz[index]) else self.f0_means_hz[index]
        return Conditions(codes, None if self.speaker_of is None else int(self.speaker_of[index]), mean_hz)


def read_voice_clips(
    run: str, validation_share: float, model: VocoderConfig, pitch_model: str | None = None
) -> tuple[SegmentVoiceClips, SegmentVoiceClips]:
    """The clips of a tokenized run with all that a vocoder takes: those to train on, and those for validation.

    Args:
        run: Folder of a run whose units are finished, and whose codes are, if the vocoder takes them.
        validation_share: Share of recordings to keep for validation, chosen by a stable hash.
        model: The vocoder's shape.
        pitch_model: The tokenizer that the run's codes of pitch are of, for a vocoder with a source.

    Raises:
        TwistError: the run is not tokenized, lacks codes or speakers, one of the two would be empty, or the pitch
            tokenizer is not the run's.
    """
    both = read_clips(run, validation_share)
    more = {"pitch": ("f0_mean_hz",)} if model.source_harmonics else {}
    tables = {name: _codes(run, name, more.get(name, ())) for name in model.num_codes}
    facts = {name: _facts(run, name) for name in tables}
    names = _speakers(run) if model.multispkr else None
    train = _with_conditions(both[0], tables, facts, names, None)
    validation = _with_conditions(both[1], tables, facts, names, train.speakers)
    for what, clips in (("train on", train), ("validate on", validation)):
        if not len(clips):
            needed = " and ".join([*tables, *(["speaker"] if names else [])])
            raise TwistError(f"{run} has no segment to {what} of which {needed} are known")
    if not model.source_harmonics:
        return train, validation
    train, validation = (_with_means(clips, tables["pitch"]) for clips in (train, validation))
    melody = Melody(_own_pitch_model(run, pitch_model), _speakers_means(train, model, run))
    return replace(train, melody=melody), replace(validation, melody=melody)


def _with_means(clips: SegmentVoiceClips, pitch: pa.Table) -> SegmentVoiceClips:
    """The clips with the mean F0 of each."""
    places = pc.index_in(clips.clips.table["segment_id"], pitch["segment_id"].combine_chunks())
    means_hz = pitch["f0_mean_hz"].take(places)
    return replace(clips, f0_means_hz=pc.fill_null(means_hz.cast(pa.float64()), float("nan")).to_numpy())


def _speakers_means(clips: SegmentVoiceClips, model: VocoderConfig, run: str) -> tuple[float, ...]:
    """The mean F0 of each speaker that the vocoder may have, over his segments; of one who is not heard, that of all.

    Raises:
        TwistError: no one is heard.
    """
    assert clips.f0_means_hz is not None
    is_voiced = ~np.isnan(clips.f0_means_hz)
    if not is_voiced.any():
        raise TwistError(f"{run} has no segment with a voiced frame: its F0 is not known")
    means_hz, weights = clips.f0_means_hz[is_voiced], clips.num_samples[is_voiced]
    of_all = float(np.average(means_hz, weights=weights))
    if not model.multispkr:
        return (of_all,)
    assert clips.speaker_of is not None
    speaker_of = clips.speaker_of[is_voiced]
    is_theirs = [speaker_of == number for number in range(model.num_speakers)]
    return tuple(float(np.average(means_hz[own], weights=weights[own])) if own.any() else of_all for own in is_theirs)


def _own_pitch_model(run: str, pitch_model: str | None) -> PitchVQVAE:
    """The pitch tokenizer that a run's codes are of.

    Raises:
        TwistError: it is not named, cannot be loaded, or is another one.
    """
    if pitch_model is None:
        raise TwistError(
            "vocoder.model.source_harmonics needs the run's pitch tokenizer, which says F0: give pitch.model"
        )
    model = load_pitch_model(local_pitch_model(pitch_model))
    told = str(read_facts(run, "pitch")["pitch_model"]["fingerprint"])
    if told.partition("/")[0] != fingerprint_of(model):
        raise TwistError(f"{run} has codes of another pitch tokenizer ({told}) than pitch.model, {pitch_model}")
    return model


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


def _codes(run: str, name: str, more: Sequence[str] = ()) -> pa.Table:
    """The codes of all segments that have some, and more columns of theirs.

    Raises:
        TwistError: the stage is not finished, or a part is damaged.
    """
    if not is_finished(run, name):
        raise TwistError(f"{run} has no codes of {name}, which this vocoder takes; run `twist {name}` on it first")
    parts = part_files(storage.join(run, name))
    columns = ["segment_id", name, *more]
    tables = [table.replace_schema_metadata(None) for table in parquet.read_many(parts, columns)]
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
