"""Common Voice (commonvoice.mozilla.org): short prompts read by volunteers, MP3, CC0.

    ROOT/<language>/{train,dev,test,validated,invalidated,other}.tsv      client_id, path, sentence, locale, ...
    ROOT/<language>/clip_durations.tsv                                    clip, duration[ms]
    ROOT/<language>/clips/<path>.mp3

ROOT is a release, or the folder of one language in it. Invalidated clips are dropped. Clips that nobody has checked yet
(`other`) may hold no speech, or another language: they are taken, with `unchecked` as the source of their language.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple

from pipeline.corpora.names import Names, refuse_strangers
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import number, read_columns, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

# Tables in the order in which they are searched for a clip; validated.tsv repeats the clips of the three splits.
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
TABLES = (*SPLITS, "validated", "other", "invalidated")
DURATIONS = "clip_durations.tsv"
# As the first releases name clips: a hash, or a number.
_CLIP_WITHOUT_SUFFIX = re.compile(r"[0-9a-f]{32,128}|common_voice_\S+|[0-9]+")


class _Row(NamedTuple):
    """The fields of a table's row that are needed; there are millions of rows."""

    table: str
    client_id: str
    sentence: str
    locale: str


def is_common_voice(config: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's audio is all clips of releases with their tables."""
    tables = [name for name in names if name.rpartition("/")[2] == "validated.tsv"]
    folders = {f"{table.removesuffix('validated.tsv')}clips" for table in tables}
    audio = [name for name in names if is_audio(name)]
    if not audio or not tables or not all(name.rpartition("/")[0] in folders for name in audio):
        return False
    header = next(read_lines(config.uri_of(tables[0])), "").split("\t")
    return {"client_id", "path"} <= {name.strip() for name in header}


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the clips in the order of their paths, language by language.

    Raises:
        CorpusError: there is no validated.tsv, or a table lacks a column.
    """
    names = config.list_files()
    present = set(names)
    clips: dict[str, list[str]] = {}
    for name in names:
        folder, _, clip = name.rpartition("/")
        if not is_audio(name) or not config.takes(name):
            continue
        if folder.split("/")[-1] != "clips":
            yield misplaced(name, config.uri_of(name))
        else:
            clips.setdefault(folder.removesuffix("clips"), []).append(clip)
    folders = [name.removesuffix("validated.tsv") for name in names if name.rpartition("/")[2] == "validated.tsv"]
    if not folders:
        raise CorpusError(
            f"{config.root} holds no validated.tsv; expected <language>/validated.tsv and <language>/clips/"
        )
    notices = Notices()
    for folder in sorted(set(folders) | clips.keys()):
        if config.takes(f"{folder}clips/"):
            yield from _read_language(config, folder, clips.get(folder, []), present, notices)
    yield from notices


def _read_language(
    config: CorpusConfig, folder: str, clips: list[str], present: set[str], notices: Notices
) -> Iterator[AudioFile]:
    rows: dict[str, _Row] = {}
    files = Names(clips, without_suffix=True)
    names_a_clip = functools.partial(_names_a_clip, frozenset(clips))
    for table in TABLES:
        if f"{folder}{table}.tsv" in present:
            uri = config.uri_of(f"{folder}{table}.tsv")
            for row in read_columns(uri, "\t", ("client_id", "path"), ("sentence",), notices, ("path", names_a_clip)):
                written = _file_name(row["path"].strip())
                clip = files.find(written) or files.find(written.rpartition("/")[2]) or written
                # An invalidated clip is dropped, whichever other tables name it.
                if table == "invalidated" or clip not in rows:
                    rows[clip] = _Row(table, row["client_id"], row.get("sentence") or "", row.get("locale") or "")
    there = set(clips)
    missing = next((clip for clip in rows if clip not in there), "")
    unlisted = next((clip for clip in clips if clip not in rows), "")
    tables = f"the tables of {config.uri_of(folder)}"
    refuse_strangers(config, tables, (len(rows), missing), (len(clips), unlisted), len(rows.keys() & there))
    durations_s = _read_durations(config, folder, present, files, notices)
    language = folder.rstrip("/").rpartition("/")[2] or config.root.rstrip("/").rpartition("/")[2]
    for clip in sorted({*clips, *rows}):
        uri = config.uri_of(f"{folder}clips/{clip}")
        id = f"{folder}{clip}"
        if clip not in there:  # never opened to check: a name in a table may point anywhere
            yield AudioFile(id, uri, drop_reason="missing", drop_detail="a table names it, but there is no such file")
            continue
        if clip not in rows:
            yield AudioFile(id, uri, drop_reason="unlisted", drop_detail="no table of the release names this clip")
            continue
        known = rows[clip]
        yield AudioFile(
            id=id,
            uri=uri,
            language=known.locale or language,
            language_source="unchecked" if known.table == "other" else ("recording" if known.locale else "folder"),
            speaker=known.client_id or None,
            split=SPLITS.get(known.table),
            text=known.sentence or None,
            duration_s=durations_s.get(clip),
            duration_from="duration[ms]",
            drop_reason="invalidated" if known.table == "invalidated" else None,
            drop_detail="listeners have found it wrong",
        )


def _read_durations(
    config: CorpusConfig, folder: str, present: set[str], files: Names, notices: Notices
) -> dict[str, float]:
    durations_s: dict[str, float] = {}
    if f"{folder}{DURATIONS}" in present:
        uri = config.uri_of(f"{folder}{DURATIONS}")
        for row in read_columns(uri, "\t", ("clip", "duration[ms]"), notices=notices):
            clip = files.find(_file_name(row["clip"].strip()))
            if clip is None:
                notices.add("description_without_audio", f"{row['clip']} of {uri}")
            elif duration_ms := number(row["duration[ms]"]):
                durations_s[clip] = duration_ms / 1000
    return durations_s


def _names_a_clip(clips: frozenset[str], value: str) -> bool:
    """Whether a value of the column `path` may name a clip, here or not, rather than being words of a sentence."""
    name = value.strip()
    return is_audio(name) or _file_name(name) in clips or bool(_CLIP_WITHOUT_SUFFIX.fullmatch(name))


def _file_name(clip: str) -> str:
    """Adds the suffix, which the first releases leave out."""
    return clip if is_audio(clip) else f"{clip}.mp3"
