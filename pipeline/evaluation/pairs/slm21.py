"""sWUGGY and sBLIMP, the lexical and syntactic tasks of the ZeroSpeech 2021 challenge.

    <folder>/lexical/{dev,test}/{gold.csv,*.wav}      filename,id,voice,frequency,word,phones,length,correct
    <folder>/syntactic/{dev,test}/{gold.csv,*.wav}    filename,id,voice,type,subtype,transcription,correct

Columns may come in any order, names of files with or without a suffix. Pairs are told by id and voice (of sentences
also by type and subtype), not by the order of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.decoders import AUDIO_SUFFIXES, without_audio_suffix
from pipeline.corpora.names import leaves_its_folder
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.measures import Measure
from pipeline.evaluation.pairs.likelier import Pair, accuracies
from pipeline.evaluation.pairs.numbered_pairs import has_numbered_pairs, numbered_pairs
from pipeline.evaluation.results import LeftOut
from pipeline.files import csv_table, storage

if TYPE_CHECKING:
    from typing import Literal

    Task = Literal["lexical", "syntactic"]

# How often a word is in LibriSpeech, by the challenge's bands: its "1-5" holds 1 to 4.
BANDS = (("oov", 0, 1), ("1-5", 1, 5), ("6-20", 5, 20), ("21-100", 20, 100), (">100", 100, np.inf))
COLUMNS: dict[str, tuple[str, ...]] = {
    "lexical": ("filename", "id", "voice", "frequency", "correct"),
    "syntactic": ("filename", "id", "voice", "type", "subtype", "correct"),
}
FACTS: dict[str, tuple[str, ...]] = {
    "lexical": ("voice", "frequency", "word", "non_word"),
    "syntactic": ("voice", "type", "subtype", "sentence", "non_sentence"),
}


def read_pairs(folder: str, task: Task, split: str) -> tuple[list[Pair], list[LeftOut]]:
    """The pairs of a task, and those of which a half is missing.

    Raises:
        TwistError: the folder is laid out otherwise, a row cannot be used, or a pair has a half twice.
    """
    if not has_gold(folder, task, split):
        if has_numbered_pairs(folder, "+"):
            return numbered_pairs(folder, "+")
        raise TwistError(_what_is_there(folder, task, split))
    return _pairs_of(_read_gold(folder, task, split), storage.join(folder, task, split), task)


def has_gold(folder: str, task: Task, split: str) -> bool:
    """Whether a folder has the challenge's own layout."""
    return storage.exists(storage.join(folder, task, split, "gold.csv"))


def lexical_measures(items: pa.Table) -> tuple[pa.Table, list[Measure]]:
    """sWUGGY: each word weighs 1, whatever its voices; all words, those of LibriSpeech, and by frequency."""
    measures = accuracies("sum", "all", weight="by_group")
    if "frequency" not in items.column_names:  # slamkit's folders do not tell it
        return items, measures
    items = items.append_column("in_vocab", pc.greater_equal(items["frequency"], 1))
    measures += accuracies("sum", "in-vocab", weight="by_group", where="in_vocab")
    frequency = items["frequency"].to_numpy()
    for name, low, high in BANDS:
        is_within = (frequency >= low) & (frequency < high)
        if not is_within.any():
            continue
        column = f"band {name}"
        items = items.append_column(column, pa.array(is_within))
        measures += accuracies("sum", f"frequency {name}", weight="by_group", where=column)
    return items, measures


def syntactic_measures(items: pa.Table) -> tuple[pa.Table, list[Measure]]:
    """sBLIMP: by id, as the challenge has it; every pair alike; and the mean of the types. These are points apart."""
    measures = accuracies("sum", "by id", weight="by_group") + accuracies("sum", "by pair")
    if "type" not in items.column_names:
        return items, measures
    measures += accuracies("sum", "mean of types", weight="by_group", mean_over="type")
    types = items["type"].to_pylist()
    for name in sorted(set(types)):
        column = f"type {name}"
        items = items.append_column(column, pa.array([one == name for one in types]))
        measures += accuracies("sum", column, weight="by_group", where=column)
    return items, measures


def _read_gold(folder: str, task: Task, split: str) -> list[dict[str, str]]:
    uri = storage.join(folder, task, split, "gold.csv")
    rows = csv_table.read_rows(uri, COLUMNS[task])
    for number, row in rows:
        if row["correct"] not in ("0", "1"):
            raise TwistError(f"{uri}, line {number}: `correct` is 0 or 1, not {row['correct']!r}")
        if leaves_its_folder(row["filename"]):
            raise TwistError(f"{uri}, line {number}: {row['filename']} is no file in this folder")
    return [row for _, row in rows]


def _pairs_of(rows: list[dict[str, str]], folder: str, task: Task) -> tuple[list[Pair], list[LeftOut]]:
    audio = [name for name in storage.list_files(folder) if name.lower().endswith(tuple(AUDIO_SUFFIXES))]
    names = {without_audio_suffix(name): name for name in audio}
    halves: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    key_names = ("id", "voice") if task == "lexical" else ("type", "subtype", "id", "voice")
    for row in rows:
        key = tuple(row[name] for name in key_names)
        found = halves.setdefault(key, {})
        if row["correct"] in found:
            twin = found[row["correct"]]["filename"]
            raise TwistError(
                f"{folder}/gold.csv: {row['filename']} and {twin} are the same half of one pair ({', '.join(key)})"
            )
        found[row["correct"]] = row
    # All non-words without a spelling: their phones stand for it, on both sides.
    has_words = any(row.get("word") for row in rows if row["correct"] == "0")
    pairs, left_out = [], []
    for key, found in halves.items():
        pair_id = "/".join(key)
        if len(found) < 2:
            (row,) = found.values()
            lacks = "non-word" if task == "lexical" else "non-sentence"
            lacks = lacks if "1" in found else lacks.removeprefix("non-")
            left_out.append(LeftOut(pair_id, "unpaired", f"gold.csv has no {lacks} beside {row['filename']}"))
            continue
        positive, negative = (_item(found[correct], names, folder) for correct in ("1", "0"))
        group = "/".join(key[:-1])
        facts = (_word_facts if task == "lexical" else _sentence_facts)(found["1"], found["0"], has_words)
        pairs.append(Pair(pair_id, group, positive, negative, facts))
    return pairs, left_out


def _item(row: dict[str, str], names: dict[str, str], folder: str) -> AudioItem:
    stem = without_audio_suffix(row["filename"])
    return AudioItem(stem, storage.join(folder, names.get(stem, f"{stem}.wav")))


def _word_facts(word: dict[str, str], non_word: dict[str, str], has_words: bool) -> dict[str, str | float | None]:
    spelling = "word" if has_words else "phones"
    try:
        frequency = float(word["frequency"] or 0)
    except ValueError:
        raise TwistError(f"gold.csv: the frequency of {word['filename']} is no number: {word['frequency']!r}") from None
    values = (word["voice"], frequency, word.get(spelling), non_word.get(spelling))
    return dict(zip(FACTS["lexical"], values, strict=True))


def _sentence_facts(good: dict[str, str], bad: dict[str, str], _: bool) -> dict[str, str | float | None]:
    values = (good["voice"], good["type"], good["subtype"], good.get("transcription"), bad.get("transcription"))
    return dict(zip(FACTS["syntactic"], values, strict=True))


def _what_is_there(folder: str, task: Task, split: str) -> str:
    names = storage.list_files(folder)
    found = sorted({name.partition("/")[0] for name in names})
    what = f"it holds {', '.join(found[:8])}{' …' if len(found) > 8 else ''}" if found else "there is nothing in it"
    wanted = f"{task}/{split}/gold.csv (sLM21) nor audio files named <number>+<anything> (slamkit)"
    return f"{folder} has neither {wanted}: {what}"
