"""Any folder of audio files, with an optional table of metadata.

    ROOT/**/*.{wav,flac,ogg,opus,mp3,sph,...}
    ROOT/metadata.csv or metadata.jsonl      columns: path, and any of language, speaker, split, text

Rows are matched by `path`, relative to ROOT. A file without a row is taken without metadata; a row without a file is
dropped as missing.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.audio.read import AUDIO_SUFFIXES
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
COLUMNS = ("language", "speaker", "split", "text")


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile]:
    """Yields the audio files, and those that only the metadata names, in the order of their paths.

    Raises:
        CorpusError: the metadata cannot be read, or a row has no path, one outside the folder, or that of another row.
    """
    names = storage.list_files(config.root)
    metadata = _read_metadata(config, names)
    audio = {name for name in names if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES}
    for name in sorted(audio | metadata.keys()):
        row = metadata.get(name, {})
        yield AudioFile(
            id=name,
            uri=storage.join(config.root, name),
            language=row.get("language") or None,
            speaker=row.get("speaker") or None,
            split=row.get("split") or None,
            text=row.get("text") or None,
        )


def _read_metadata(config: CorpusConfig, names: list[str]) -> dict[str, dict[str, str]]:
    """Reads the metadata, if there is any: rows by normalized path."""
    present = [config.metadata] if config.metadata else [name for name in METADATA_NAMES if name in names]
    if not present:
        return {}
    if len(present) > 1:
        raise CorpusError(f"{config.root} holds both {' and '.join(present)}; keep one, or name one as `metadata`")
    uri = present[0] if config.metadata else storage.join(config.root, present[0])
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{uri} does not exist; it is named as the metadata of corpus {config.label}") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{uri} is not UTF-8 text: {error}") from error
    by_path: dict[str, dict[str, str]] = {}
    for line, row in _rows_of_jsonl(uri, text) if uri.endswith(".jsonl") else _rows_of_csv(uri, text):
        path = _path_of(row, f"line {line} of {uri}")
        if path in by_path:
            raise CorpusError(f"line {line} of {uri}: path {path!r} was named before")
        by_path[path] = row
    return by_path


def _path_of(row: dict[str, str], where: str) -> str:
    path = row.get("path")
    if not path:
        raise CorpusError(
            f"{where} has no `path`; columns are path and any of {', '.join(COLUMNS)}. If this is no such table, "
            f"rename it, or name the right one as `metadata`"
        )
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise CorpusError(f"{where}: path {path!r} leaves the folder; give it relative to the folder")
    return str(PurePosixPath(path))


def _rows_of_csv(uri: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields rows, each with the number of its (last) line."""
    # A field may be the transcript of hours of speech; the limit only protects those who read line by line.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise CorpusError(
                    f"line {reader.line_num} of {uri} has more fields than the first line names; put fields that "
                    f"hold a comma into double quotes"
                )
            yield reader.line_num, {key: value for key, value in row.items() if value}
    except csv.Error as error:
        raise CorpusError(f"line {reader.line_num} of {uri} is not CSV: {error}") from error


def _rows_of_jsonl(uri: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields rows, each with the number of its line."""
    # Not splitlines(), which also splits at characters that a JSON string may contain, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:60]!r} is not an object")
            values = {key: str(value) for key, value in row.items() if value is not None}
            "".join(values.values()).encode()  # a lone surrogate such as \ud800 is valid JSON, but not text
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"line {number} of {uri} is not JSON: {error}") from error
        yield number, values
