"""Folders of numbered files, as Spoken StoryCloze and slamkit have them: 2k is right, 2k + 1 is its wrong twin.

    0_….wav 1_….wav 2_….wav …        (StoryCloze; text beside each in .txt)
    <part>/0+….wav <part>/1+….wav …  (slamkit's sBLIMP)

Paired by number, never by the order in which a disk lists them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.audio.read import AUDIO_SUFFIXES
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.pairs.likelier import Pair
from pipeline.evaluation.results import LeftOut
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Sequence


def has_numbered_pairs(folder: str, separator: str) -> bool:
    """Whether a folder holds a file whose name begins with a number and the separator."""
    return any(_number(name, separator) is not None for name in _audio(folder))


def numbered_pairs(folder: str, separator: str) -> tuple[list[Pair], list[LeftOut]]:
    """The pairs of a folder; each folder below it is a `part` of its own. A number without its twin is left out.

    Raises:
        TwistError: there are no such files, or two of one number.
    """
    files: dict[tuple[str, int], str] = {}
    for name in _audio(folder):
        number = _number(name, separator)
        if number is None:
            continue
        part = name.rpartition("/")[0]
        if (part, number) in files:
            raise TwistError(f"{folder} has two files of number {number}: {files[part, number]} and {name}")
        files[part, number] = name
    if not files:
        raise TwistError(
            f"{folder} has no audio files named <number>{separator}<anything>, of which 2k is right and 2k + 1 is wrong"
        )
    pairs, left_out = [], []
    for part, first in sorted({(part, number - number % 2) for part, number in files}):
        pair_id = f"{part}/{first}" if part else str(first)
        both = [files.get((part, number)) for number in (first, first + 1)]
        if None in both:
            left_out.append(LeftOut(pair_id, "unpaired", f"there is no number {first + both.index(None)}"))
            continue
        positive, negative = (AudioItem(str(name), storage.join(folder, str(name))) for name in both)
        pairs.append(Pair(pair_id, pair_id, positive, negative, {"part": part or None}))
    return pairs, left_out


def one_folder_of_pairs(folder: str, separator: str) -> tuple[list[Pair], list[LeftOut]]:
    """As `numbered_pairs`, of a set that has no parts: sSC and tSC beside each other are two sets.

    Raises:
        TwistError: as there, or the pairs lie in several folders.
    """
    pairs, left_out = numbered_pairs(folder, separator)
    parts = sorted({str(pair.facts["part"] or ".") for pair in pairs})
    if len(parts) > 1:
        raise TwistError(f"{folder} has pairs in several folders ({', '.join(parts)}): name one of them")
    return pairs, left_out


def _audio(folder: str) -> Sequence[str]:
    return [name for name in storage.list_files(folder) if name.lower().endswith(tuple(AUDIO_SUFFIXES))]


def _number(name: str, separator: str) -> int | None:
    head, found, _ = name.rpartition("/")[2].partition(separator)
    return int(head) if found and head.isascii() and head.isdigit() else None
