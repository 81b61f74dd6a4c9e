"""A Hugging Face audio data set in Parquet files: a column of audio {bytes, path}, and columns of metadata.

    ROOT/**/*.parquet

The audio column is the first struct with a field `bytes`, or a column of bytes called audio. COLUMNS lists the other
columns that are used if present; `duration` is in seconds. Without a column `split`, the split is taken from the name
of the file or folder (`train-00000-of-00004.parquet`).
"""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError
from pipeline.corpora.tables import number
from pipeline.files import storage
from pipeline.files.audio_uri import ParquetRow, open_parquet
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.corpora.source import Notice

COLUMNS = {
    "id": ("id", "audio_id", "segment_id", "path", "file"),
    "language": ("language", "locale", "lang"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text"),
    "split": ("split",),
    "duration": ("duration_s", "duration_ms", "duration"),
}
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
_WORD = re.compile(r"[a-z]+")


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the rows, file by file.

    Raises:
        CorpusError: there is no Parquet file, or one has no column of audio.
    """
    return find_rows(config)


def find_rows(config: CorpusConfig, source_of: Callable[[str], str] | None = None) -> Iterator[AudioFile]:
    """The same as find_recordings; `source_of`, if given, makes the speaker from a row's id."""
    names = [name for name in config.list_files(".parquet") if config.takes(name)]
    if not names:
        raise CorpusError(f"{config.root} holds no Parquet files")
    read = functools.partial(_read_file, config.root, source_of)
    yield from itertools.chain.from_iterable(spread(read, names))


def _read_file(root: str, source_of: Callable[[str], str] | None, name: str) -> list[AudioFile]:
    """Reads the rows of one file; runs on any machine."""
    uri = storage.join(root, name)
    rows: list[AudioFile] = []
    try:
        with open_parquet(uri) as file:
            audio = _audio_column(file.schema_arrow)
            if audio is None:
                raise CorpusError(f"{uri} has no column of audio: a struct with bytes, or bytes called audio")
            for group in range(file.num_row_groups):
                rows += _read_group(name, uri, file, group, audio, source_of)
    except (pa.ArrowException, OSError) as error:
        # pyarrow reports damage as a plain OSError too.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        damage = f"not a whole Parquet file: {error}"
        rows.append(AudioFile(name, uri, drop_reason="unreadable", drop_detail=damage))
    return rows


def _audio_column(schema: pa.Schema) -> str | None:
    structs = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and (
            pa.types.is_binary(field.type.field("bytes").type)
            or pa.types.is_large_binary(field.type.field("bytes").type)
        )
    ]
    plain = [
        field.name
        for field in schema
        if field.name == "audio" and (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))
    ]
    return next(iter(structs + plain), None)


def _read_group(
    name: str, uri: str, file: Any, group: int, audio: str, source_of: Callable[[str], str] | None
) -> Iterator[AudioFile]:
    present = set(file.schema_arrow.names)
    columns = {what: next((c for c in names if c in present), None) for what, names in COLUMNS.items()}
    table = file.read_row_group(group, sorted({c for c in columns.values() if c}), use_threads=False)
    told = {what: table[c].to_pylist() if c else None for what, c in columns.items()}
    of_file = _split_of(name)
    prefix = name.removesuffix(".parquet")
    for row in range(file.metadata.row_group(group).num_rows):
        known = {what: values[row] if values is not None else None for what, values in told.items()}
        duration_s = number(known["duration"])
        if duration_s and columns["duration"] == "duration_ms":
            duration_s /= 1000
        # Ids need not differ between files.
        id = f"{prefix}/{known['id'] if known['id'] not in (None, '') else f'{group}-{row}'}"
        language = known["language"]
        yield AudioFile(
            id=id,
            uri=str(ParquetRow(uri, group, row, audio)),
            language=str(language) if isinstance(language, str) and language else None,
            language_source="recording" if isinstance(language, str) and language else None,
            speaker=source_of(id) if source_of else (str(known["speaker"]) if known["speaker"] is not None else None),
            split=_SPLITS.get(str(known["split"]).lower(), str(known["split"])) if known["split"] else of_file,
            text=known["text"] if isinstance(known["text"], str) and known["text"] else None,
            duration_s=duration_s or None,
        )


def _split_of(name: str) -> str | None:
    """The split that a file's path names; the file's own name comes before its folders'."""
    for part in reversed(PurePosixPath(name).parts):
        for word in _WORD.findall(part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return None
