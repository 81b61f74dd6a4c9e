"""Which of a run's segments a classifier of languages is trained on, and which are held out.

A segment has the language that its corpus states. Those in a corpus' splits validation and test, and those of some
speakers beside, are held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from model.training.step_batches import draw_order
from pipeline.corpora.manifest import iterate_tables
from pipeline.errors import TwistError
from pipeline.languages import normalize_code
from pipeline.segments.segment import read_segments
from pipeline.units.labelled_clips import hash_fraction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.language_id.train_config import LanguageTrainConfig

HELD_OUT_SPLITS = ("validation", "test")
COLUMNS = ["recording_id", "corpus", "language", "speaker", "split"]


@dataclass(frozen=True)
class TrainSegment:
    """A segment, what is said of its recording, and whether it is held out; its speaker is never unknown."""

    uri: str
    channel: int | None
    start_s: float
    end_s: float
    language: str
    corpus: str
    speaker: str
    is_held_out: bool


@dataclass(frozen=True)
class Chosen:
    """Segments to make frames of, in the run's order, and what became of the others.

    Attributes:
        segments: Those to make frames of.
        num_without_language: Those whose corpus states no language.
        num_beyond: Those that are too short, or beyond the limit of a speaker or a language.
        is_bounded: Whether some are beyond that of a language.
    """

    segments: list[TrainSegment]
    num_without_language: int
    num_beyond: int
    is_bounded: bool


@dataclass(frozen=True)
class _Facts:
    """What is said of a recording; its speaker is the recording itself where none is known."""

    corpus: str
    language: str
    speaker: str
    split: str | None


def choose_segments(run: str, config: LanguageTrainConfig) -> Chosen:
    """Chooses the segments of a run to train a classifier on.

    Raises:
        TwistError: the run has no segments, or none states a language.
    """
    table = read_segments(run)
    ids = pc.dictionary_encode(table["recording_id"].combine_chunks())
    facts_by_id = _facts_of(run, ids.dictionary)
    facts = [facts_by_id[id] for id in ids.dictionary.to_pylist()]
    recordings = ids.indices.to_numpy()
    lengths_s = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
    by_speaker_s: dict[tuple[str, str, str], float] = {}
    by_language_s: dict[str, float] = {}
    places: list[int] = []
    num_without_language = num_beyond = 0
    is_bounded = False
    for place in draw_order([config.seed, 3], len(table)):
        said = facts[recordings[place]]
        length_s = float(lengths_s[place])
        of_speaker = (said.corpus, said.speaker, said.language)
        if not said.language:
            num_without_language += 1
        elif length_s < config.min_segment_s or by_speaker_s.get(of_speaker, 0) >= 60 * config.max_minutes_per_speaker:
            num_beyond += 1
        elif by_language_s.get(said.language, 0) >= 3600 * config.max_hours_per_language:
            num_beyond += 1
            is_bounded = True
        else:
            by_speaker_s[of_speaker] = by_speaker_s.get(of_speaker, 0) + length_s
            by_language_s[said.language] = by_language_s.get(said.language, 0) + length_s
            places.append(int(place))
    if not places:
        raise TwistError(
            f"none of the segments of {run} are in a language that their corpus states: give each corpus a `language`, "
            f"or name its folders after languages"
        )
    places.sort()
    # One who is held out in one recording is held out in all.
    held_out = {(said.corpus, said.speaker) for said in facts if said.split in HELD_OUT_SPLITS}
    rows = table.select(["uri", "channel", "start_s", "end_s"]).take(pa.array(places)).to_pylist()
    segments = []
    for place, row in zip(places, rows, strict=True):
        said = facts[recordings[place]]
        is_held_out = (said.corpus, said.speaker) in held_out or hash_fraction(said.speaker) < config.validation_share
        told = (said.language, said.corpus, said.speaker)
        segments.append(TrainSegment(row["uri"], row["channel"], row["start_s"], row["end_s"], *told, is_held_out))
    return Chosen(segments, num_without_language, num_beyond, is_bounded)


def require_both_sides(segments: Sequence[TrainSegment], config: LanguageTrainConfig) -> None:
    """Refuses speech of the wanted language alone or of others alone, before hours are spent on its frames.

    Raises:
        TwistError: it is such: to train on, held out, or in the corpora to calibrate on.
    """
    calibrating = set(config.calibrate_on or {segment.corpus for segment in segments})
    parts = {
        "speech to train on is": [segment for segment in segments if not segment.is_held_out],
        "held-out speech is": [segment for segment in segments if segment.is_held_out],
        f"held-out speech of {', '.join(sorted(calibrating))}, to calibrate on, is": [
            segment for segment in segments if segment.is_held_out and segment.corpus in calibrating
        ],
    }
    for what, part in parts.items():
        sides = {segment.language == config.wanted for segment in part}
        if sides != {False, True}:
            lacking = "other languages" if True in sides else config.wanted if sides else "any language"
            raise TwistError(f"train_language: {what} without {lacking}; give more speakers, or others to hold out")


def _facts_of(run: str, recording_ids: pa.Array) -> dict[str, _Facts]:
    found = {}
    for table in iterate_tables(run, COLUMNS):
        for row in table.filter(pc.is_in(table["recording_id"], recording_ids)).to_pylist():
            id = row["recording_id"]
            language = normalize_code(row["language"] or "")
            found[id] = _Facts(row["corpus"], language, row["speaker"] or id, row["split"])
    return found
