"""Pairs of one's own: two folders of equal file names, or a table.

<folder>/positive/<name>, <folder>/negative/<name>
pairs.csv: positive,negative[,id][,group]            (or .tsv; paths relative to the table)
"""

from __future__ import annotations

from pipeline.audio.read import AUDIO_SUFFIXES
from pipeline.corpora.names import beside_table
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.pairs.likelier import Pair
from pipeline.evaluation.results import LeftOut
from pipeline.files import csv_table, storage


def read_pairs(source: str) -> tuple[list[Pair], list[LeftOut]]:
    """The pairs of a folder or a table, and the files that lack their twin.

    Raises:
        TwistError: there are none, a folder has a name twice, or the table lacks a column or has an id twice.
    """
    return _of_table(source) if source.lower().endswith((".csv", ".tsv")) else _of_folder(source)


def _of_folder(folder: str) -> tuple[list[Pair], list[LeftOut]]:
    sides = {}
    for side in ("positive", "negative"):
        names = storage.list_files(storage.join(folder, side))
        audio = [name for name in names if name.lower().endswith(tuple(AUDIO_SUFFIXES))]
        sides[side] = {name.rpartition(".")[0]: name for name in audio}
        if extra := set(audio) - set(sides[side].values()):
            name = min(extra)
            other = sides[side][name.rpartition(".")[0]]
            raise TwistError(f"{folder} has two files of one name in {side}/: {name} and {other}")
        if not audio:
            raise TwistError(f"{folder} has no audio in {side}/; it should hold positive/ and negative/ of equal names")
    pairs, left_out = [], []
    for name in sorted(sides["positive"].keys() | sides["negative"].keys()):
        if missing := [side for side in sides if name not in sides[side]]:
            left_out.append(LeftOut(name, "unpaired", f"there is no {missing[0]}/{name}"))
            continue
        positive, negative = (
            AudioItem(f"{side}/{name}", storage.join(folder, side, sides[side][name])) for side in sides
        )
        pairs.append(Pair(name, name, positive, negative))
    return pairs, left_out


def _of_table(uri: str) -> tuple[list[Pair], list[LeftOut]]:
    pairs: dict[str, Pair] = {}
    left_out = []
    for number, row in csv_table.read_rows(uri, ("positive", "negative")):
        pair_id = row.get("id") or str(number)
        if pair_id in pairs:
            raise TwistError(f"{uri}, line {number}: the id {pair_id} was there before")
        if lacks := [side for side in ("positive", "negative") if not row[side]]:
            left_out.append(LeftOut(pair_id, "unpaired", f"line {number} has no {lacks[0]}"))
            continue
        positive, negative = (
            AudioItem(row[side], beside_table(uri, row[side], f"{uri}, line {number}"))
            for side in ("positive", "negative")
        )
        pairs[pair_id] = Pair(pair_id, row.get("group") or pair_id, positive, negative)
    return list(pairs.values()), left_out
