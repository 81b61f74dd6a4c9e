"""Common Voice (commonvoice.mozilla.org): short prompts read by volunteers, MP3, CC0.

    ROOT/<language>/{train,dev,test,validated,invalidated,other}.tsv      client_id, path, sentence, locale, ...
    ROOT/<language>/clip_durations.tsv                                    clip, duration[ms]
    ROOT/<language>/clips/<path>.mp3

ROOT is a release, or the folder of one language in it. Invalidated clips are dropped. Clips that nobody has checked yet
(`other`) may hold no speech, or another language: they are taken, with `unchecked` as the source of their language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, is_audio, misplaced
from pipeline.corpora.tables import number, read_columns
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tables in the order in which they are searched for a clip; validated.tsv repeats the clips of the three splits.
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
TABLES = (*SPLITS, "validated", "other", "invalidated")
DURATIONS = "clip_durations.tsv"


class _Row(NamedTuple):
    """The fields of a table's row that are needed; there are millions of rows."""

    table: str
    client_id: str
    sentence: str
    locale: str


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile]:
    """Yields the clips in the order of their paths, language by language.

    Raises:
        CorpusError: there is no validated.tsv, or a table lacks a column.
    """
    names = storage.list_files(config.root)
    present = set(names)
    clips: dict[str, list[str]] = {}
    for name in names:
        folder, _, clip = name.rpartition("/")
        if not is_audio(name) or not config.takes(name):
            continue
        if folder.split("/")[-1] != "clips":
            yield misplaced(name, storage.join(config.root, name))
        else:
            clips.setdefault(folder.removesuffix("clips"), []).append(clip)
    folders = [name.removesuffix("validated.tsv") for name in names if name.rpartition("/")[2] == "validated.tsv"]
    if not folders:
        raise CorpusError(
            f"{config.root} holds no validated.tsv; expected <language>/validated.tsv and <language>/clips/"
        )
    for folder in sorted(set(folders) | clips.keys()):
        if config.takes(f"{folder}clips/"):
            yield from _read_language(config, folder, clips.get(folder, []), present)


def _read_language(config: CorpusConfig, folder: str, clips: list[str], present: set[str]) -> Iterator[AudioFile]:
    rows: dict[str, _Row] = {}
    for table in TABLES:
        if f"{folder}{table}.tsv" in present:
            for row in read_columns(storage.join(config.root, f"{folder}{table}.tsv"), "\t", ("client_id", "path")):
                clip = _file_name(row.get("path", ""))
                # An invalidated clip is dropped, whichever other tables name it.
                if table == "invalidated" or clip not in rows:
                    rows[clip] = _Row(table, row["client_id"], row.get("sentence") or "", row.get("locale") or "")
    durations_s: dict[str, float] = {}
    if f"{folder}{DURATIONS}" in present:
        for row in read_columns(storage.join(config.root, f"{folder}{DURATIONS}"), "\t", ("clip", "duration[ms]")):
            if duration_ms := number(row.get("duration[ms]")):
                durations_s[row["clip"]] = duration_ms / 1000
    language = folder.rstrip("/").rpartition("/")[2] or config.root.rstrip("/").rpartition("/")[2]
    there = set(clips)
    for clip in sorted({*clips, *rows}):
        uri = storage.join(config.root, f"{folder}clips/{clip}")
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
            drop_reason="invalidated" if known.table == "invalidated" else None,
            drop_detail="listeners have found it wrong",
        )


def _file_name(clip: str) -> str:
    """Adds the suffix, which the first releases leave out."""
    return clip if is_audio(clip) else f"{clip}.mp3"
