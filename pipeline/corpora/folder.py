"""Any folder of audio files, with an optional table of what is known about them.

    ROOT/**/*.{wav,flac,ogg,opus,mp3,sph,...}
    ROOT/metadata.csv or metadata.jsonl      columns: path, and any of language, speaker, split, text

Rows are matched by `path`, relative to ROOT. A file without a row is taken with nothing known about it; a row without a
file is dropped as missing.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.audio import AUDIO_SUFFIXES
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
COLUMNS = ("language", "speaker", "split", "text")


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile]:
    """The corpus' audio files in the order of their paths.

    Raises:
        CorpusError: the metadata cannot be read, lacks the column `path`, or names a path twice.
    """
    names = storage.list_files(config.root)
    metadata = _read_metadata(config, names)
    audio = {name for name in names if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES}
    for name in sorted(audio | metadata.keys()):
        row = metadata.get(name, {})
        yield AudioFile(id=name, uri=storage.join(config.root, name), **{c: row.get(c) or None for c in COLUMNS})


def _read_metadata(config: CorpusConfig, names: list[str]) -> dict[str, dict[str, str]]:
    present = [config.metadata] if config.metadata else [name for name in METADATA_NAMES if name in names]
    if not present:
        return {}
    if len(present) > 1:
        raise CorpusError(f"{config.root} holds both {' and '.join(present)}; keep one, or name one as `metadata`")
    uri = present[0] if config.metadata else storage.join(config.root, present[0])
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
        rows = list(_rows_of_jsonl(text) if uri.endswith(".jsonl") else csv.DictReader(io.StringIO(text)))
    except FileNotFoundError:
        raise CorpusError(f"{uri} does not exist; it is named as the metadata of corpus {config.label}") from None
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise CorpusError(f"{uri} is not readable as {PurePosixPath(uri).suffix[1:]} in UTF-8: {error}") from error
    by_path: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        path = row.get("path")
        if not path:
            raise CorpusError(f"row {number} of {uri} has no `path`; columns are path, {', '.join(COLUMNS)}")
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise CorpusError(f"row {number} of {uri}: path {path!r} leaves the folder; give it relative to the folder")
        path = str(PurePosixPath(path))
        if path in by_path:
            raise CorpusError(f"row {number} of {uri}: path {path!r} was named before")
        by_path[path] = row
    return by_path


def _rows_of_jsonl(text: str) -> Iterator[dict[str, str]]:
    for line in text.splitlines():
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:60]!r} is not an object")
            yield {key: str(value) for key, value in row.items() if value is not None}
