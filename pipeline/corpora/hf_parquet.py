"""A Hugging Face audio data set in Parquet files: a column of audio {bytes, path}, and columns of metadata.

    ROOT/**/*.parquet

The audio column is the first struct with a field `bytes`, or a column of bytes called audio. A row without bytes is the
file at its `path`, relative to the Parquet file or to ROOT. Other columns are used under their usual names (ID_COLUMNS,
columns.COLUMNS); `duration` is in seconds. Without a column `split`, the split is taken from the name of the file or
folder (`train-00000-of-00004.parquet`). Where the ids of a file repeat, as ids of sentences do, its rows are named by
row group and row.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import re
from array import array
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.types as types

from pipeline.audio.errors import AudioError
from pipeline.audio.places import read_file_patiently
from pipeline.corpora import columns
from pipeline.corpora.names import Names, leaves_its_folder
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice, Notices, is_audio
from pipeline.files import storage
from pipeline.files.audio_uri import ParquetRow, batch_rows, is_damage, open_parquet
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow.parquet as pq

ID_COLUMNS = ("id", "audio_id", "segment_id", "path", "file")
FIELDS = ("language", "speaker", "text", "split", "duration")
# A file of more rows is not listed by a worker, which would have to send them all at once.
MOST_ROWS_OF_A_TASK = 200_000
# Listing reads small columns between large ones: so, most of the audio is not downloaded.
READ_AHEAD_BYTES = 2**18
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
_WORD = re.compile(r"[a-z]+")


def is_hf_parquet(config: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder has Parquet files with audio, and no other audio."""
    tables = [name for name in names if name.endswith(".parquet")]
    if not tables or any(map(is_audio, names)):
        return False
    for name in tables:
        with contextlib.suppress(AudioError):  # one that cannot be read says nothing of the others
            uri = config.uri_of(name)
            return read_file_patiently(functools.partial(_has_audio, uri), uri, config.witnesses)
    return False


def _has_audio(uri: str) -> bool:
    try:
        with open_parquet(uri, READ_AHEAD_BYTES) as parquet:
            return _audio_column(parquet.schema_arrow) is not None
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        return False


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the rows, file by file.

    Raises:
        CorpusError: there is no Parquet file, or one has no column of audio.
    """
    return find_rows(config)


def find_rows(config: CorpusConfig, source_of: Callable[[str], str] | None = None) -> Iterator[AudioFile | Notice]:
    """The same as find_recordings; `source_of`, if given, makes the speaker from a row's id."""
    names = [name for name in config.list_files(".parquet") if config.takes(name)]
    if not names:
        raise CorpusError(f"{config.root} holds no Parquet files")
    read_by_path: set[str] = set()
    read = functools.partial(_read_small_file, config, source_of)
    for name, rows in zip(names, spread(read, names), strict=True):
        for row in rows if rows is not None else _read_patiently(config, source_of, name):
            if isinstance(row, AudioFile) and "#" not in row.uri:
                read_by_path.add(row.uri)
            yield row
    audio = [name for name in config.list_files() if is_audio(name) and config.takes(name)]
    left = [name for name in audio if config.uri_of(name) not in read_by_path]
    if left:
        yield Notice("undescribed_audio", left[0], len(left))


def _read_small_file(
    config: CorpusConfig, source_of: Callable[[str], str] | None, name: str
) -> list[AudioFile | Notice] | None:
    """Reads the rows of one file; runs on any machine. None if there are too many for a list."""
    rows: list[AudioFile | Notice] = []
    for row in _read_patiently(config, source_of, name):
        rows.append(row)
        if len(rows) > MOST_ROWS_OF_A_TASK:
            return None
    return rows


def _read_patiently(
    config: CorpusConfig, source_of: Callable[[str], str] | None, name: str
) -> Iterator[AudioFile | Notice]:
    """Yields the rows of one file; behind those that could be read, an entry to be dropped for the rest."""
    uri = config.uri_of(name)
    rows: Iterator[AudioFile | Notice] | None = None
    num_read = 0

    def next_row() -> AudioFile | Notice | None:
        nonlocal rows
        if rows is None:  # at first, and after a failure
            rows = itertools.islice(_read_file(config, source_of, name), num_read, None)
        try:
            return next(rows, None)
        except OSError:
            rows = None
            raise

    try:
        while (row := read_file_patiently(next_row, uri, config.witnesses)) is not None:
            num_read += 1
            yield row
    except AudioError as failure:
        yield AudioFile(name, uri, drop_reason=failure.reason, drop_detail=failure.detail)


def _read_file(config: CorpusConfig, source_of: Callable[[str], str] | None, name: str) -> Iterator[AudioFile | Notice]:
    uri = config.uri_of(name)
    notices = Notices()
    try:
        with open_parquet(uri, READ_AHEAD_BYTES) as parquet:
            _refuse_many_rows(parquet, storage.size(uri))
            audio = _audio_column(parquet.schema_arrow)
            if audio is None:
                raise CorpusError(
                    f"{uri} has no column of audio: a struct with bytes or path, or bytes called audio; its columns "
                    f"are {', '.join(parquet.schema_arrow.names)}"
                )
            yield from _File(config, name, parquet, audio, source_of, notices).rows()
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        damage = f"not a whole Parquet file: {error}"
        yield AudioFile(name, uri, drop_reason="unreadable", drop_detail=damage)
    yield from notices


def _refuse_many_rows(parquet: pq.ParquetFile, num_bytes: int) -> None:
    """Refuses a file with more rows than bytes: 130 kB can be 30 million empty rows.

    Raises:
        pa.ArrowInvalid: it has.
    """
    groups = range(parquet.num_row_groups)
    num_rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
    if num_rows > num_bytes:
        raise pa.ArrowInvalid(f"{num_rows:,} rows in {num_bytes:,} bytes, which cannot all hold audio or its path")


def _audio_column(schema: pa.Schema) -> str | None:
    """The column of audio: bytes, or a path to it, or both."""
    structs = [field for field in schema if types.is_struct(field.type)]
    with_bytes = [f.name for f in structs if _has_field(f.type, "bytes", _is_bytes)]
    plain = [f.name for f in schema if f.name == "audio" and _is_bytes(f.type)]
    paths = [f.name for f in structs if f.name == "audio" and _has_field(f.type, "path", _is_text)]
    return next(iter(with_bytes + plain + paths), None)


def _has_field(struct: pa.StructType, name: str, is_type: Callable[[pa.DataType], bool]) -> bool:
    place = struct.get_field_index(name)
    return place >= 0 and is_type(struct.field(place).type)


def _is_bytes(type: pa.DataType) -> bool:
    return bool(types.is_binary(type) or types.is_large_binary(type) or types.is_binary_view(type))


def _is_text(type: pa.DataType) -> bool:
    return bool(types.is_string(type) or types.is_large_string(type) or types.is_string_view(type))


class _File:
    """The rows of a Parquet file; few of them are in memory at a time."""

    def __init__(
        self,
        config: CorpusConfig,
        name: str,
        parquet: pq.ParquetFile,
        audio: str,
        source_of: Callable[[str], str] | None,
        notices: Notices,
    ) -> None:
        self._config = config
        self._name = name
        self._uri = config.uri_of(name)
        self._parquet = parquet
        self._audio = audio
        self._source_of = source_of
        schema = parquet.schema_arrow
        others = [column for column in schema.names if column != audio]
        self._columns = columns.choose_columns(others, FIELDS)
        columns.notice_unused(others, self._columns, FIELDS, self._uri, notices)
        for field in ("language", "text"):
            if (column := self._columns.get(field)) and not _is_text(_value_type(schema.field(column).type)):
                notices.add("unused_column", f"{column!r} of {self._uri}, which holds {schema.field(column).type}")
                del self._columns[field]
        self._id_column = self._find_id_column(others)
        self._ids_repeat = self._id_column is not None and self._do_ids_repeat(self._id_column, notices)
        self._names: Names | None = None
        self._split = _split_of(name)

    def rows(self) -> Iterator[AudioFile]:
        """Yields the rows, row group by row group."""
        chosen = sorted({*self._columns.values(), *filter(None, [self._id_column])})
        for group in range(self._parquet.num_row_groups):
            num_rows = self._parquet.metadata.row_group(group).num_rows
            elsewhere = self._paths_of_rows_without_bytes(group)
            known = self._batches(group, chosen) if chosen else itertools.repeat({}, num_rows)
            for row, told in enumerate(known):
                yield self._row(group, row, told, next(elsewhere, None))

    def _batches(self, group: int, chosen: list[str]) -> Iterator[dict[str, Any]]:
        """Yields the values of each row of a row group."""
        rows = batch_rows(self._parquet, group, chosen)
        for batch in self._parquet.iter_batches(rows, row_groups=[group], columns=chosen, use_threads=False):
            yield from batch.to_pylist()

    def _find_id_column(self, others: list[str]) -> str | None:
        in_any_case = {columns.same_name(column): column for column in reversed(others)}
        return next(filter(None, map(in_any_case.get, map(columns.same_name, ID_COLUMNS))), None)

    def _do_ids_repeat(self, column: str, notices: Notices) -> bool:
        digests = array("Q")
        for group in range(self._parquet.num_row_groups):
            for told in self._batches(group, [column]):
                content = hashlib.blake2b(str(told[column]).encode("utf-8", "replace"), digest_size=8)
                if told[column] not in (None, ""):
                    digests.append(int.from_bytes(content.digest(), "big"))
        repeated = len(digests) - len(np.unique(np.frombuffer(digests, np.uint64))) if digests else 0
        if repeated:
            notices.add("repeated_id", f"{column!r} of {self._uri}", repeated)
        return repeated > 0

    def _paths_of_rows_without_bytes(self, group: int) -> Iterator[str | None]:
        """Yields for each row None if it has bytes, else the path beside them, "" if there is none."""
        type = self._parquet.schema_arrow.field(self._audio).type
        if not types.is_struct(type) or not _has_field(type, "path", _is_text):
            return
        has_bytes = _has_field(type, "bytes", _is_bytes)
        metadata = self._parquet.metadata.row_group(group)
        chunks = {
            metadata.column(place).path_in_schema: metadata.column(place) for place in range(metadata.num_columns)
        }
        told = chunks.get(f"{self._audio}.bytes")
        statistics = told.statistics if told is not None else None
        num_null = statistics.null_count if statistics is not None and statistics.has_null_count else None
        if has_bytes and num_null == 0:
            return
        if not has_bytes or num_null == metadata.num_rows:  # the bytes need not be looked at
            chosen = [f"{self._audio}.path"]
        else:
            chosen = [self._audio]
        rows = batch_rows(self._parquet, group, [self._audio])
        for batch in self._parquet.iter_batches(rows, row_groups=[group], columns=chosen, use_threads=False):
            audio = batch.column(0)
            paths = audio.field(audio.type.get_field_index("path")).to_pylist()
            if len(chosen) == 1 and chosen[0] == self._audio and has_bytes:
                with_bytes = audio.field(audio.type.get_field_index("bytes")).is_valid().to_pylist()
            else:
                with_bytes = [False] * len(paths)
            yield from (None if there else path or "" for path, there in zip(paths, with_bytes, strict=True))

    def _row(self, group: int, row: int, told: dict[str, Any], path: str | None) -> AudioFile:
        known = {field: told.get(column) for field, column in self._columns.items()}
        id_told = told.get(self._id_column) if self._id_column else None
        # Ids need not differ between files.
        prefix = self._name.removesuffix(".parquet")
        told_id = f"{prefix}/{id_told if id_told not in (None, '') else f'{group}-{row}'}"
        id = f"{prefix}/{group}-{row}" if self._ids_repeat else told_id
        uri, drop_reason, drop_detail = str(ParquetRow(self._uri, group, row, self._audio)), None, ""
        if path is not None:
            uri, drop_reason, drop_detail = self._find(path, uri)
        language = columns.language_of(known.get("language"))
        text = known.get("text")
        split = known.get("split")
        return AudioFile(
            id=id,
            uri=uri,
            language=language,
            language_source="recording" if language else None,
            speaker=self._source_of(told_id) if self._source_of else columns.speaker_of(known.get("speaker")),
            split=columns.split_of(split) or self._split,
            text=text if isinstance(text, str) and text else None,
            duration_s=columns.duration_of(known.get("duration"), self._columns.get("duration")),
            duration_from=self._columns.get("duration"),
            drop_reason=drop_reason,
            drop_detail=drop_detail,
        )

    def _find(self, path: str, uri: str) -> tuple[str, str | None, str]:
        """The file of a row without bytes: its address, and why it is dropped if it is none."""
        if not path.strip():
            return uri, "empty", "the row has neither bytes nor a path"
        folder = self._name.rpartition("/")[0]
        inside = path.removeprefix(f"{self._config.root.rstrip('/')}/")
        if inside.startswith("/") or (leaves_its_folder(inside) and leaves_its_folder(f"{folder}/{inside}")):
            return uri, "bad_name", f"the row has no bytes, and its path {path!r} leaves the folder of the corpus"
        if self._names is None:
            self._names = Names(self._config.list_files())
        for place in dict.fromkeys((f"{folder}/{inside}" if folder else inside, inside)):
            if not leaves_its_folder(place) and (found := self._names.find(place)):
                return self._config.uri_of(found), None, ""
        return uri, "missing", f"the row has no bytes, and there is no file at its path {path!r}"


def _value_type(type: pa.DataType) -> pa.DataType:
    return type.value_type if types.is_dictionary(type) else type


def _split_of(name: str) -> str | None:
    """The split that a file's path names; the file's own name comes before its folders'."""
    for part in reversed(PurePosixPath(name).parts):
        for word in _WORD.findall(part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return None
