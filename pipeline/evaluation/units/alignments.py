"""Alignments: which phone is said when, by file, as aligners write it.

<name>.TextGrid    Praat's, long or short; the tier is named (MFA: "phones", also "<speaker> - phones")
<name>.lab         a line each: start, end, label; whole numbers are HTK's units of 100 ns, decimals are seconds
<any>.ctm          a line each: file, channel, start, duration, label, all in seconds
phonemes.parquet   what `twist make-speech voices` writes

The name of a file is its path below the folder without the suffix, or what a line of a CTM says.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.corpora.alignments.ctm import read_ctm
from pipeline.corpora.alignments.labelled import AlignmentError, decode, time_s
from pipeline.corpora.alignments.textgrid import read_textgrid, tier_of
from pipeline.errors import TwistError
from pipeline.evaluation.results import LeftOut
from pipeline.files import parquet, storage
from pipeline.files.read_ahead import read_ahead
from pipeline.synthetic.many_voices import PHONEMES, PHONEMES_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.corpora.alignments.labelled import Labelled

SILENCE = "SIL"
# What aligners call a pause or what is no speech (Kaldi, MFA, HTK, Festival, ZeroSpeech).
SILENCES = frozenset({"", "sil", "silence", "sp", "spn", "pau", "h#", "#", "<eps>", "<sil>", "noi", "nsn"})
# Stress is no part of the phone: AH0 and AH1 are AH.
ARPABET_VOWEL = re.compile(r"([A-Z]{2})[012]")
# Neighbours whose times were rounded may overlap by so much.
OVERLAP_TOLERANCE_S = 0.002
# Aligners round up to their frames, so that an alignment may end after its audio does.
END_TOLERANCE_S = 0.1
HTK_UNITS_PER_S = 10_000_000


@dataclass(frozen=True)
class Interval:
    """A phone and when it is said. Pauses are called SILENCE; ARPABET's digits of stress are gone."""

    label: str
    start_s: float
    end_s: float


def read_alignments(place: str, tier: str = "phones") -> tuple[dict[str, list[Interval]], list[LeftOut]]:
    """The alignments in a folder, or in one file, by name; and those that are damaged.

    Takes and raises what `iterate_alignments` does.
    """
    alignments: dict[str, list[Interval]] = {}
    left_out = []
    for name, found in iterate_alignments(place, tier):
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            alignments[name] = found
    return alignments, left_out


def iterate_alignments(place: str, tier: str = "phones") -> Iterator[tuple[str, list[Interval] | LeftOut]]:
    """The alignments in a folder, or in one file, one after another, each with its name; of one that is damaged, why.

    Args:
        place: A folder, searched to its bottom, or a file.
        tier: The tier of TextGrids that has the phones.

    Raises:
        TwistError: there are none, or two of one name.
    """
    listed = {name: storage.join(place, name) for name in storage.list_files(place)}
    if not listed and storage.exists(place):
        listed = {place.rpartition("/")[2]: place}
    files = {name: uri for name, uri in listed.items() if _is_alignment(name)}
    if not files:
        raise TwistError(f"{place} has no alignments: .TextGrid, .lab, .ctm or phonemes.parquet are looked for")
    seen: set[str] = set()
    for name, of_file in zip(files, read_ahead(functools.partial(_read, tier=tier), files.items()), strict=True):
        if isinstance(of_file, AlignmentError):
            yield name, LeftOut(name, of_file.reason, of_file.detail)
            continue
        for one, labelled in of_file.items():
            if one in seen:
                raise TwistError(f"{place} has two alignments of {one}; the second is in {name}")
            try:
                intervals = intervals_of(labelled)
            except AlignmentError as error:
                yield one, LeftOut(one, error.reason, error.detail)
                continue
            seen.add(one)
            yield one, intervals


def _read(file: tuple[str, str], tier: str) -> dict[str, list[Labelled]] | AlignmentError:
    try:
        return _labels_of(*file, tier)
    except AlignmentError as error:
        return error


def intervals_of(labelled: Sequence[Labelled]) -> list[Interval]:
    """Intervals in order, from label, start and end in seconds; those of no length are dropped.

    Raises:
        AlignmentError: one ends before it begins, begins before the audio does, or two overlap.
    """
    intervals = [Interval(_label(label), start_s, end_s) for label, start_s, end_s in labelled]
    intervals = [one for one in intervals if one.start_s != one.end_s or math.isinf(one.start_s)]
    intervals.sort(key=lambda interval: interval.start_s)
    for place, interval in enumerate(intervals):
        if not 0 <= interval.start_s < interval.end_s < float("inf"):
            raise AlignmentError("bad_alignment", f"{interval.label} goes from {interval.start_s} to {interval.end_s}")
        before = intervals[place - 1] if place else None
        if before and before.end_s > interval.start_s + OVERLAP_TOLERANCE_S:
            detail = f"{before.label} until {before.end_s:.3f} s overlaps {interval.label} from {interval.start_s:.3f}"
            raise AlignmentError("overlap", detail)
    return intervals


def require_within(intervals: Sequence[Interval], duration_s: float) -> None:
    """Refuses an alignment of other audio.

    Raises:
        AlignmentError: it ends after the audio does.
    """
    if intervals and intervals[-1].end_s > duration_s + END_TOLERANCE_S:
        detail = f"the alignment ends at {intervals[-1].end_s:.2f} s, the audio at {duration_s:.2f} s"
        raise AlignmentError("misaligned", detail)


def labels_at(times_s: NDArray[np.floating], intervals: Sequence[Interval]) -> list[str | None]:
    """What is said at each time; None where no interval is."""
    starts_s = np.array([interval.start_s for interval in intervals])
    places = np.searchsorted(starts_s, times_s, side="right") - 1
    return [
        intervals[place].label if place >= 0 and time_s < intervals[place].end_s else None
        for place, time_s in zip(places, times_s, strict=True)
    ]


def _label(label: str) -> str:
    label = label.strip()
    if label.lower() in SILENCES:
        return SILENCE
    stressed = ARPABET_VOWEL.fullmatch(label)
    return stressed[1] if stressed else label


def _is_alignment(name: str) -> bool:
    return name.lower().endswith((".textgrid", ".lab", ".ctm")) or name.rpartition("/")[2] == PHONEMES


def _labels_of(name: str, uri: str, tier: str) -> dict[str, list[Labelled]]:
    """What a file says, by the name of the audio that it says it of."""
    folder_and_stem, _, suffix = name.rpartition(".")
    match suffix.lower():
        case "textgrid":
            return {folder_and_stem: tier_of(read_textgrid(_text(uri)), tier)}
        case "lab":
            return {folder_and_stem: _of_lab(uri)}
        case "ctm":
            return read_ctm(_text(uri))
    folder = name.rpartition("/")[0]
    return {f"{folder}/{path}".lstrip("/"): labelled for path, labelled in _of_made_speech(uri).items()}


def _text(uri: str) -> str:
    return decode(storage.read_bytes(uri))


def _of_lab(uri: str) -> list[Labelled]:
    rows = []
    for number, line in enumerate(_text(uri).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=2)
        start_s, end_s = (_lab_time_s(field, f"line {number}") for field in fields[:2])
        # HTK's lines may go on with scores.
        rows.append((fields[2].split()[0] if len(fields) == 3 else "", start_s, end_s))
    return rows


def _lab_time_s(field: str, where: str) -> float:
    time = time_s(field, where)
    return time / HTK_UNITS_PER_S if field.isdigit() else time


def _of_made_speech(uri: str) -> dict[str, list[Labelled]]:
    table = parquet.read(uri)
    if not table.schema.equals(PHONEMES_SCHEMA):
        raise AlignmentError("bad_alignment", f"{uri} was not written by `twist make-speech voices`")
    return {
        row["path"].rpartition(".")[0]: [(phone["name"], phone["start_s"], phone["end_s"]) for phone in row["phonemes"]]
        for row in table.to_pylist()
    }
