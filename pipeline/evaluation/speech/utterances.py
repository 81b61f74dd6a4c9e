"""Recordings to speak again or to go on from, with what is said in them: held out by a run, of a corpus, or in a table.

<table>.jsonl, .csv, .tsv    columns `audio` (relative to the table) and perhaps `text`, `speaker`, `split`, `id`; each
                             also by its usual other names
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipeline.corpora import columns
from pipeline.corpora.names import beside_table
from pipeline.corpora.readers import find_recordings
from pipeline.corpora.source import AudioFile, CorpusConfig
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.files import csv_table, foreign_json, parquet, storage
from pipeline.runs import MANIFEST, SHARDS
from pipeline.segments.segment import open_segments
from pipeline.shards import open_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class Utterance:
    """Something said: where its audio is, the words, and by whom, as far as that is known."""

    item: AudioItem
    text: str | None = None
    speaker: str | None = None

    @property
    def group(self) -> str:
        """What it is no independent evidence beside: the speaker's other utterances."""
        return self.speaker or self.item.item_id


def read_utterances(source: str, split: str) -> list[Utterance]:
    """The utterances of a table or of a corpus in any layout, those apart that are said to be of another split.

    Raises:
        TwistError: there are none, or the table or the corpus cannot be read.
    """
    found = list(_of_table(source, split) if source.endswith(TABLES) else _of_corpus(source, split))
    if not found:
        raise TwistError(f"{source} holds no audio of the split {split}")
    return found


def held_out_recordings(run: str, split: str) -> list[Utterance]:
    """The whole recordings with a text of which a run's shards hold speech in a split.

    Raises:
        TwistError: the run has no shards, or there are none.
    """
    wanted = {segment_id.rpartition("#")[0] for segment_id in _held_out(run, split)}
    names = ["recording_id", "uri", "channel", "speaker", "text"]
    found = []
    for name in storage.list_files(storage.join(run, MANIFEST), ".parquet"):
        uri = storage.join(run, MANIFEST, name)
        with parquet.RowGroups(uri) as file:
            is_recordings = set(names) <= set(file.schema.names)  # dropped.parquet lies beside them
        for table in parquet.iterate(uri, names) if is_recordings else ():
            for row in table.to_pylist():
                if row["recording_id"] in wanted and row["text"]:
                    item = AudioItem(row["recording_id"], row["uri"], channel=row["channel"])
                    found.append(Utterance(item, row["text"], row["speaker"]))
    if not found:
        raise TwistError(
            f"{run} knows the text of no recording in its {split} split; name a corpus or a table that has texts"
        )
    return found


def held_out_segments(run: str, split: str) -> list[Utterance]:
    """The segments in a split of a run's shards, without their texts.

    Raises:
        TwistError: the run has no shards, or there are none.
    """
    speakers = _held_out(run, split)
    found = []
    with open_segments(run) as groups:
        for table in groups:
            for row in table.filter(pc.is_in(table["segment_id"], pc.cast(list(speakers), "string"))).to_pylist():
                item = AudioItem(row["segment_id"], row["uri"], row["start_s"], row["end_s"], row["channel"])
                found.append(Utterance(item, None, speakers[row["segment_id"]]))
    if not found:
        raise TwistError(f"{run} has no speech in its {split} split; name a corpus or a table")
    return found


def spread_out(utterances: Sequence[Utterance], num: int | None) -> list[Utterance]:
    """As many utterances, evenly spread over all in the order of their names; all of them for None."""
    in_order = sorted(utterances, key=lambda utterance: utterance.item.item_id)
    if num is None or num >= len(in_order):
        return in_order
    return [in_order[place * len(in_order) // num] for place in range(num)]


def _held_out(run: str, split: str) -> dict[str, str | None]:
    """The speaker of each sample in a split, by the id of its (first) segment."""
    held_out: dict[str, str | None] = {}
    for table in open_dataset(storage.join(run, SHARDS)).rows(["segment_id", "speaker", "split"]):
        rows = table.filter(pc.equal(table["split"], split))
        held_out.update(zip(rows["segment_id"].to_pylist(), rows["speaker"].to_pylist(), strict=True))
    return held_out


def _of_corpus(root: str, split: str) -> Iterator[Utterance]:
    for recording in find_recordings(CorpusConfig(storage.absolute(root))):
        if not isinstance(recording, AudioFile) or recording.drop_reason is not None:
            continue
        told = recording.complete(recording) if recording.complete else recording
        if told.split in (None, split):
            yield Utterance(AudioItem(told.id, told.uri, channel=told.channel), told.text, told.speaker)


def _of_table(uri: str, split: str) -> Iterator[Utterance]:
    try:
        rows: list[dict[str, Any]]
        if uri.endswith(".jsonl"):
            rows = _json_rows(storage.read_bytes(uri).decode("utf-8-sig"))
        else:
            rows = [dict(row) for _, row in csv_table.read_rows(uri)]
    except FileNotFoundError:
        raise TwistError(f"there is no table {uri}") from None
    except TwistError:
        raise
    except (ValueError, AttributeError) as error:
        raise TwistError(f"{uri} is no table in UTF-8 that can be read: {error}") from error
    chosen = columns.choose_columns(list(dict.fromkeys(name for row in rows for name in row)), columns.COLUMNS)
    if "path" not in chosen:
        raise TwistError(f"{uri} has no column `audio` with the audio's paths")
    for number, row in enumerate(rows, start=1):
        told = {field: str(row[column]) for field, column in chosen.items() if row.get(column) not in (None, "")}
        path = told.get("path")
        if path is None:
            raise TwistError(f"{uri} has a row without audio: {row}")
        if columns.SPLITS.get(told.get("split", split).lower(), told.get("split")) == split:
            place = beside_table(uri, path, f"{uri}, row {number}")
            yield Utterance(AudioItem(str(row.get("id") or path), place), told.get("text"), told.get("speaker"))


def _json_rows(text: str) -> list[dict[str, Any]]:
    rows = [foreign_json.parse(line) for line in text.split("\n") if line.strip()]
    return [dict(row.items()) for row in rows]
