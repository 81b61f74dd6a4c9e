"""The benchmark of units alone: audio and what is known of it, to units, to results. No speech LM takes part.

    units                  a row a file: PNMI, purities, bitrates, unit perplexity (unit_table.py)
    abx, abx-features      a row a pair of phones and a speaker (abx_benchmark.py)

Intervals are of a bootstrap over speakers, or over files where speakers are not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.alignments.labelled import AlignmentError
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.units.abx_benchmark import abx_results
from pipeline.evaluation.units.alignments import read_alignments, require_within
from pipeline.evaluation.units.phone_tokens import read_items
from pipeline.evaluation.units.spoken_files import find_files, matches
from pipeline.evaluation.units.unit_table import phones_of_frames, unit_table
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.evaluation.item_units import UnitRow
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.subject import Subject
    from pipeline.evaluation.units.alignments import Interval
    from pipeline.evaluation.units.spoken_files import SpokenFile

RULE = "HuBERT, section 4.4, a pause counts as a phone; bits by frequencies, as ZeroSpeech 2020"
# Of a file's frames; an alignment that names the phones of fewer is remarked on.
COVERED = 0.9


def units(subject: Subject) -> Iterator[Result]:
    """Units by themselves, and by what is known of the audio: phones and speakers. Each result as soon as it is made.

    Raises:
        TwistError: no audio is named or found; alignments, items or speakers cannot be read, or fit no audio.
        RunError: a disk or store fails.
    """
    config = subject.config.units
    if config.audio is None:
        raise TwistError("units needs its data: give --evaluation.units.audio")
    files = {file.name: file for file in find_files(config.audio, config.speakers)}
    listed = read_items(config.items) if config.items else None
    read = read_alignments(config.alignments, config.tier) if config.alignments else None
    made = subject.units([AudioItem(name, file.uri) for name, file in files.items()])
    phones, unfit = fitting(*read, files, made.of, subject.frame_rate_hz) if read else ({}, [])
    data = digest(made.fingerprint, repr(sorted(phones.items())), repr(listed))
    yield _units_result(subject, made.of, files, phones, data, [*made.left_out, *unfit])
    if (phones or listed) and config.conditions:
        yield from abx_results(subject, listed, phones, files, made.of, data)


def fitting(
    read: Mapping[str, list[Interval]],
    damaged: Sequence[LeftOut],
    files: Mapping[str, SpokenFile],
    units: Mapping[str, UnitRow],
    frame_rate_hz: float,
) -> tuple[dict[str, list[Interval]], list[LeftOut]]:
    """The alignments that label frames of a file with units, by its name; and the others, with the damaged ones.

    Raises:
        TwistError: none belongs to a file with units.
    """
    of: dict[str, list[Interval]] = {}
    left_out = list(damaged)
    without_phones: list[LeftOut] = []
    places = matches(read, files)
    for name, intervals in read.items():
        file = places.get(name)
        if file is None:
            left_out.append(LeftOut(name, "no_audio", "no audio file has the name of this alignment"))
        elif file in of:
            left_out.append(LeftOut(name, "duplicate", f"{file} has an alignment of another name"))
        elif file in units:
            try:
                require_within(intervals, units[file].duration_s)
                of[file] = intervals
                if all(phone is None for phone in phones_of_frames(units[file], intervals, frame_rate_hz)):
                    detail = f"its alignment names the phone of none of its {len(units[file].frames)} frames"
                    without_phones.append(LeftOut(file, "no_phones", detail))
            except AlignmentError as error:
                left_out.append(LeftOut(file, error.reason, error.detail))
    if not of:
        why = f"; {left_out[0].item_id}: {left_out[0].detail}" if left_out else ""
        raise TwistError(f"none of {len(read) + len(damaged)} alignments fits one of {len(files)} audio files{why}")
    for one in without_phones:
        del of[one.item_id]
    return of, [*left_out, *without_phones]


def _units_result(
    subject: Subject,
    units: Mapping[str, UnitRow],
    files: Mapping[str, SpokenFile],
    phones: Mapping[str, list[Interval]],
    data: str,
    left_out: Sequence[LeftOut],
) -> Result:
    config = subject.config.units
    table, measures = unit_table(units, files, phones, subject.frame_rate_hz) if units else (pa.table({}), [])
    return subject.result(
        "units",
        measures,
        table,
        rule=RULE,
        settings={"folder": config.audio, "source": config.alignments, "tier": config.tier},
        data=data,
        left_out=left_out,
        notes=[*(_coverage(table, phones) if phones else ()), *_chance(table)],
        needs_lm=False,
    )


def _coverage(table: pa.Table, phones: Mapping[str, object]) -> list[str]:
    """Remarks on files of which few phones are known, or none."""
    notes = []
    rows = table.select(["item_id", "frames", "phone_frames"]).to_pylist()
    if without := [row["item_id"] for row in rows if row["item_id"] not in phones]:
        notes.append(f"{len(without):,} audio files have no alignment with phones, e.g. {without[0]}")
    shares = {row["item_id"]: row["phone_frames"] / row["frames"] for row in rows if row["item_id"] in phones}
    if thin := [name for name, share in shares.items() if share < COVERED]:
        least = min(thin, key=shares.__getitem__)
        notes.append(
            f"{len(thin):,} alignments name the phones of less than {COVERED:.0%} of their audio, the least that of "
            f"{least} ({shares[least]:.0%})"
        )
    return [f"{note}; frames without a phone count for bits and speakers alone" for note in notes]


def _chance(table: pa.Table) -> list[str]:
    """What speaker and gender purity are to be compared with."""
    notes = []
    for what in ("speaker", "gender"):
        if f"{what}_commonest" in table.column_names:
            commonest, frames = (pc.sum(table[f"{what}_{column}"]).as_py() for column in ("commonest", "frames"))
            notes.append(f"{what} purity by chance: {commonest / frames:.4g}, the share of the commonest {what}")
    return notes
