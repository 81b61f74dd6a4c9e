"""The People's Speech (mlcommons.org): varied English with transcripts, FLAC at 16 kHz, up to 17 s a clip.

Tars with JSON lines beside them, as on Hugging Face; or all in one tar, as in the first release:

    ROOT/{train,validation,test}/<subset>/*.tar        clean, clean_sa, dirty, dirty_sa; validation; test
    ROOT/{train,validation,test}/<subset>.json         a line per document: identifier, training_data: {name[], label[],
                                                       duration_ms[]}; the first release has output_paths[] for name[]
    ROOT/*.tar, ROOT/*.json[l]

Parquet, as on Hugging Face: ROOT/<subset>/*.parquet with id, audio, duration_ms, text. (hf_parquet.py reads it.)

No field gives the language; about 1 transcript in 500 is not English, 1 in 100 is too short to tell. Speakers are
unknown: the source that a clip was cut from, known from its name (`<source>_00012.flac`), stands in for the speaker.
"""

from __future__ import annotations

import itertools
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from pipeline.corpora import hf_parquet, tars
from pipeline.corpora.names import refuse_strangers
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import number, read_json_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

_CLIP_NUMBER = re.compile(r"_\d{5}$")
_SPLITS = {"train": "train", "validation": "validation", "test": "test"}


class _Clip(NamedTuple):
    text: str | None
    duration_s: float | None


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the clips, tar by tar, or row by row of Parquet files.

    Raises:
        CorpusError: there is neither a tar nor a Parquet file.
    """
    names = config.list_files()
    if any(name.endswith(".parquet") for name in names):
        yield from hf_parquet.find_rows(config, source_of=source_of)
        return
    if not any(name.endswith(".tar") for name in names):
        raise CorpusError(f"{config.root} holds neither tars nor Parquet files of the People's Speech")
    tables = [name for name in names if name.endswith((".json", ".jsonl"))]
    for name in names:
        if is_audio(name) and config.takes(name):
            yield misplaced(name, config.uri_of(name))
    chosen = [name for name in names if name.endswith(".tar") and config.takes(name)]
    indices = tars.members_of_all(config, chosen)
    notices = Notices()
    of_folder = itertools.groupby(zip(chosen, indices, strict=True), key=lambda entry: entry[0].rpartition("/")[0])
    for folder, entries in of_folder:
        clips: dict[str, _Clip] = {}
        for table in _tables_of(folder, tables):
            clips |= _read_clips(config.uri_of(table), notices)
        lines, found, matched = len(clips), 0, 0
        audio = ""
        for name, (members, damage) in entries:
            uri = config.uri_of(name)
            for member in members:
                if is_audio(member.name):
                    found, audio = found + 1, audio or member.name
                    matched += PurePosixPath(member.name).name in clips
                    yield _clip(uri, member, clips, split_of(name))
            if damage:
                yield damage
        if clips:
            example = f"{next(iter(clips))} in the lines of {folder or config.root}"
            notices.add("description_without_audio", example, len(clips))
            table = f"the lines of {config.uri_of(folder) if folder else config.root}"
            refuse_strangers(config, table, (lines, next(iter(clips))), (found, audio), matched)
    yield from notices


def source_of(id: str) -> str:
    """The name of the source that a clip was cut from, by the clip's id or file name."""
    return _CLIP_NUMBER.sub("", PurePosixPath(id).name.removesuffix(".flac"))


def split_of(name: str) -> str | None:
    """The split that a folder of a path names; else `train`, as in the release of a single tar."""
    return next((split for part, split in _SPLITS.items() if part in name.split("/")[:-1]), "train")


def _tables_of(folder: str, tables: list[str]) -> list[str]:
    """The tables for a folder of tars: the one named after it beside it, else those in it."""
    beside = [table for table in tables if folder and table in (f"{folder}.json", f"{folder}.jsonl")]
    return beside or [table for table in tables if table.rpartition("/")[0] == folder]


def _read_clips(uri: str, notices: Notices) -> dict[str, _Clip]:
    clips: dict[str, _Clip] = {}
    for row in read_json_lines(uri):
        data = row.get("training_data", row)
        if not isinstance(data, dict):
            notices.add("unreadable_description", f"a line of {uri} without training_data")
            continue
        paths = data.get("name") or data.get("output_paths") or []
        texts, durations_ms = data.get("label") or [], data.get("duration_ms") or []
        for place, path in enumerate(paths):
            text = texts[place] if place < len(texts) else None
            duration_ms = number(durations_ms[place]) if place < len(durations_ms) else None
            clips[PurePosixPath(str(path)).name] = _Clip(text or None, duration_ms / 1000 if duration_ms else None)
    return clips


def _clip(uri: str, member: tars.Member, clips: dict[str, _Clip], split: str | None) -> AudioFile:
    stem = PurePosixPath(member.name).name
    # Taken out, so that what is left at the end is named: lines without a clip.
    known = clips.pop(stem, _Clip(None, None))
    drop_reason, drop_detail = tars.reason_to_drop(member)
    return AudioFile(
        id=stem.removesuffix(".flac"),
        uri=tars.address(uri, member),
        speaker=source_of(stem),
        split=split,
        text=known.text,
        duration_s=known.duration_s,
        sample_rate_hz=16_000 if known.duration_s else None,
        num_channels=1 if known.duration_s else None,
        drop_reason=drop_reason,
        drop_detail=drop_detail,
    )
