"""Manifests in JSON lines, as NeMo has them (audio_filepath, duration, offset, text, lang) and as slm_scaling does.

    ROOT/**/*.{json,jsonl}[.gz]         a file, or a stretch of one, a line

Fields may have their other usual names (columns.COLUMNS). Paths are absolute, s3://, or relative to the manifest. The
rows of one file make one recording: where they have an `offset`, they are stretches of it, whose times are its voice
activity; language, speaker and split are those on which they agree.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.corpora import columns, stretches
from pipeline.corpora.file_lists import find_lists, notice_undescribed
from pipeline.corpora.names import leaves_its_folder
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices
from pipeline.corpora.tables import number, parse_json, read_json_lines, read_lines
from pipeline.records import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.corpora.source import Notice

FIELDS = ("path", "language", "speaker", "text", "split", "duration")
EXPECTED = (
    "in JSON lines; expected .json or .jsonl files whose lines have `audio_filepath`, as NeMo's, or `audio`, `dataset` "
    "and `split`, as slm_scaling's"
)
_MANIFEST = re.compile(r".*\.jsonl?(\.gz)?")
_REMOTE_OR_ABSOLUTE = ("/", "s3://")


def is_nemo(config: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's JSON files are all such manifests."""
    tables = [name for name in names if _MANIFEST.fullmatch(name)]
    return bool(tables) and all(_is_manifest(config.uri_of(name)) for name in tables)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the files in the order in which the manifests name them.

    Raises:
        CorpusError: there is no such manifest, or a line of one is not a JSON object.
    """
    names = config.list_files()
    notices = Notices()
    files: dict[str, list[stretches.Row]] = defaultdict(list)
    for name in find_lists(config, names, _MANIFEST.fullmatch, _is_manifest, EXPECTED, notices):
        for row in _read_rows(config, name, notices):
            files[row["path"]].append(row)
    uris = {path: path if path.startswith(_REMOTE_OR_ABSOLUTE) else config.uri_of(path) for path in files}
    for path, rows in files.items():
        yield _recording(path, uris[path], rows)
    notice_undescribed(config, names, set(uris.values()), notices)
    yield from notices


def _is_manifest(uri: str) -> bool:
    try:
        first = parse_json(next(read_lines(uri), ""), uri)
    except CorpusError:
        return False
    return "audio_filepath" in first or {"audio", "dataset", "split"} <= first.keys()


def _read_rows(config: CorpusConfig, name: str, notices: Notices) -> Iterator[stretches.Row]:
    """The rows of one manifest by field; `path` is relative to the root, or absolute if it lies elsewhere."""
    folder = PurePosixPath(name).parent
    split = columns.split_of_table(PurePosixPath(name).name.partition(".")[0])
    choose = functools.cache(lambda header: columns.choose_columns(header, FIELDS))
    for place, told in enumerate(read_json_lines(config.uri_of(name)), start=1):
        chosen = choose(tuple(told))
        row: dict[str, Any] = {field: told[column] for field, column in chosen.items()}
        where = f"row {place} of {config.uri_of(name)}"
        if not isinstance(row.get("path"), str) or not row["path"]:
            notices.add("unreadable_row", f"{where} names no single file: {row.get('path')!r}")
            continue
        columns.notice_unused(told, chosen, FIELDS, where, notices)
        offset, length = told.get("offset"), row.get("duration")
        row["start"] = number(offset)
        row["duration"] = columns.duration_of(length, chosen.get("duration"))
        is_impossible = offset not in (None, "") and (
            row["start"] is None or (length not in (None, "") and not row["duration"])
        )
        if is_impossible:
            notices.add("unreadable_row", f"{where} has impossible times: offset {offset!r}, duration {length!r}")
            continue
        path = row["path"].removeprefix(f"{config.root.rstrip('/')}/")
        if path == row["path"] and not path.startswith(_REMOTE_OR_ABSOLUTE):
            path = (folder / path).as_posix()
        row["path"] = path if path.startswith(_REMOTE_OR_ABSOLUTE) else posixpath.normpath(path)
        row["split"] = columns.split_of(row.get("split")) or split
        row["speaker"] = columns.speaker_of(row.get("speaker"))
        yield row


def _recording(path: str, uri: str, rows: Sequence[stretches.Row]) -> AudioFile:
    id = path.removeprefix("s3://").lstrip("/")
    if not path.startswith(_REMOTE_OR_ABSOLUTE) and leaves_its_folder(path):
        return AudioFile(id, uri, drop_reason="bad_name", drop_detail=f"the path {path!r} leaves the folder")
    rows = sorted(rows, key=lambda row: row["start"] or 0.0)
    # A row without an offset is about the whole file, and tells its length.
    whole = next((row["duration"] for row in rows if row["start"] is None and row["duration"]), None)
    language = stretches.language(rows)
    return AudioFile(
        id=id,
        uri=uri,
        language=language,
        language_source="recording" if language else None,
        speaker=stretches.agreed(rows, "speaker"),
        split=_split(rows),
        text=stretches.text(rows),
        voice_activity=stretches.times(rows, whole),
        duration_s=whole,
        duration_from="duration",
    )


def _split(rows: Sequence[stretches.Row]) -> str | None:
    """The split of all rows; of a file that is in several, the one that is furthest from training."""
    splits = {row["split"] for row in rows} - {None}
    known = [split for split in SPLITS if split in splits]
    return known[-1] if known else next(iter(sorted(splits)), None)
