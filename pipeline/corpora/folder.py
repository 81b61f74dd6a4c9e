"""Any folder of audio files, with optional tables of metadata.

    ROOT/**/*.{wav,flac,ogg,opus,mp3,sph,...}
    ROOT/**/metadata.csv or metadata.jsonl      columns: path, and any of language, speaker, split, text

Columns may also have their other usual names (columns.COLUMNS), `file_name` as Hugging Face's audiofolder has it among
them. Rows are matched by path, relative to the table's folder or to ROOT. Between the fields of a .csv are commas,
semicolons, tabs or bars; without a first line of names, the fields between bars are LJSpeech's: id, text, normalized
text. A file without a row is taken without metadata, but for the language that its folders may be named after
(language_folders.py), unless the corpus has one; a row without a file is dropped as missing.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.audio.read import AUDIO_SUFFIXES
from pipeline.corpora import columns
from pipeline.corpora.alignments.word_json import ALIGNED_TEXT
from pipeline.corpora.language_folders import language_of, languages_of_folders
from pipeline.corpora.names import Names, leaves_its_folder, refuse_strangers
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices
from pipeline.corpora.tables import decode
from pipeline.files import foreign_json, storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
FIELDS = ("path", "language", "speaker", "split", "text")
DELIMITERS = ",;\t|"
# What a first line may tell Excel.
_DELIMITER_FOR_EXCEL = re.compile(r"sep=[,;\t|](?=\n)", re.IGNORECASE)
# What describes audio elsewhere: a folder that holds it may be one of another kind.
_TABLE_SUFFIXES = (
    ".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".jsonl.gz", ".tsv.gz", ".parquet", ".xlsx", ".xls", ".ods",
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar",
    "metadata.json", "manifest.json",
)  # fmt: skip
_COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".z")
_SIDECAR_SUFFIXES = (".json", ".txt", ".lab", ".TextGrid", ".vtt", ".srt")
# Folders in which LJSpeech and its like keep the audio.
_AUDIO_FOLDERS = ("", "wavs/", "wav/", "clips/", "audio/")

Rows = dict[str, dict[str, str]]


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the audio files, and those that only the metadata names, in the order of their paths.

    Raises:
        CorpusError: the metadata cannot be read, or its first row has no path, or a row has one outside the folder, or
            that of another row that says something else; or most rows and most files have no match.
    """
    names = config.list_files()
    notices = Notices()
    audio = {name for name in names if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES}
    tables = _tables(config, names)
    metadata = _read_metadata(config, names, tables, notices)
    of_folders = {} if config.language else languages_of_folders(audio | metadata.keys())
    for name in sorted(audio | metadata.keys()):
        row = metadata.get(name)
        language = row.get("language") if row else None
        of_folder = None if language else language_of(name, of_folders)
        if of_folder:
            notices.add("language_of_folder", f"{of_folder} of {name}")
        yield AudioFile(
            id=name,
            uri=config.uri_of(name),
            language=language or of_folder,
            language_source="folder_name" if of_folder else None,
            speaker=columns.speaker_of(row.get("speaker")) if row else None,
            split=columns.split_of(row.get("split")) if row else None,
            text=row.get("text") if row else None,
            drop_reason="missing" if row and "missing" in row else None,
            drop_detail=row.get("missing", "") if row else "",
        )
    stems = {name[: -len(PurePosixPath(name).suffix)] for name in audio}
    for name in names:
        is_words = name.rpartition("/")[2] == ALIGNED_TEXT  # which `twist align` reads
        is_read = name in tables or config.uri_of(name) in tables or name in metadata or is_words
        is_sidecar = name.endswith(_SIDECAR_SUFFIXES) and (name.rpartition(".")[0] in stems or name in stems)
        if not is_read and (name.lower().endswith(_TABLE_SUFFIXES) or is_sidecar or _is_compressed_audio(name)):
            notices.add("unread_file", name)
    yield from notices


def _is_compressed_audio(name: str) -> bool:
    path = PurePosixPath(name.lower())
    return path.suffix in _COMPRESSED_SUFFIXES and PurePosixPath(path.stem).suffix in AUDIO_SUFFIXES


def _tables(config: CorpusConfig, names: list[str]) -> list[str]:
    """The metadata: the file of the settings, else one of each folder, relative to the root."""
    if config.metadata:
        return [config.metadata]
    tables = [name for name in names if PurePosixPath(name).name.lower() in METADATA_NAMES]
    folders: dict[str, str] = {}
    for name in tables:
        folder = name.rpartition("/")[0]
        if folder in folders:
            raise CorpusError(
                f"{config.uri_of(folder) if folder else config.root} holds both "
                f"{PurePosixPath(folders[folder]).name} and {PurePosixPath(name).name}; keep one, or name one as "
                f"`metadata`"
            )
        folders[folder] = name
    return tables


def _read_metadata(config: CorpusConfig, names: list[str], tables: list[str], notices: Notices) -> Rows:
    """Reads the metadata, if there is any: rows by the name of their file; of those without one, why it is missing."""
    rows: Rows = {}
    files = Names([name for name in names if name not in tables], without_suffix=True)
    audio = [name for name in names if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES]
    for table in tables:
        uri = table if config.metadata else config.uri_of(table)
        folder = "" if config.metadata else table.removesuffix(PurePosixPath(table).name)
        matched: set[str] = set()
        num_rows, example = 0, ""
        for line, row in _read_table(config, uri, bool(folder), notices):
            num_rows += 1
            where = f"line {line} of {uri}"
            if num_rows > 1 and not row.get("path"):
                notices.add("unreadable_row", f"{where} has no path")
                continue
            written = _path_of(config, row, where)
            name = _find(files, folder, written)
            if name is None:
                example = example or written
                name = f"{folder}{PurePosixPath(written)}"
                row["missing"] = f"{where} names it, but there is no such file"
            else:
                matched.add(name)
            if _said(rows.get(name, row)) != _said(row):
                raise CorpusError(f"{where}: path {name!r} was named before, with something else said of it")
            rows[name] = row
        below = [name for name in audio if name.startswith(folder)]
        other = next((name for name in below if name not in matched), "")
        refuse_strangers(config, uri, (num_rows, example), (len(below), other), len(matched))
    return rows


def _said(row: dict[str, str]) -> dict[str, str]:
    """What a row says of its file."""
    return {field: value for field, value in row.items() if field not in ("path", "missing")}


def _find(files: Names, folder: str, written: str) -> str | None:
    """The file of a row: relative to the table's folder, else to the root."""
    for place in dict.fromkeys((folder, "")):
        for within in _AUDIO_FOLDERS if "/" not in written else ("",):
            if found := files.find(f"{place}{within}{written}"):
                return found
    return None


def _path_of(config: CorpusConfig, row: dict[str, str], where: str) -> str:
    path = row.get("path")
    if not path:
        raise CorpusError(
            f"{where} has no `path`; columns are path and any of {', '.join(FIELDS[1:])}. If this is no such table, "
            f"rename it, or name the right one as `metadata`"
        )
    inside = path.removeprefix(f"{config.root.rstrip('/')}/")
    if leaves_its_folder(inside):
        raise CorpusError(f"{where}: path {path!r} leaves the folder; give it relative to the folder")
    return inside


def _read_table(
    config: CorpusConfig, uri: str, is_optional: bool, notices: Notices
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a table by field, each with the number of its line; of an optional one without paths, none."""
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        raise CorpusError(f"{uri} does not exist; it is named as the metadata of corpus {config.label}") from None
    text = _decode(content)
    is_jsonl = uri.lower().endswith(".jsonl")
    chosen: dict[str, str] = {}
    header_seen: tuple[str, ...] | None = None
    for line, row in _rows_of_jsonl(uri, text) if is_jsonl else _rows_of_csv(uri, text):
        if tuple(row) != header_seen:
            header_seen = tuple(row)
            chosen = columns.choose_columns(row, FIELDS)
            if is_optional and "path" not in chosen:
                notices.add("unread_file", f"{uri}, whose line {line} has no path")
                return
        told = {field: row[column].strip() for field, column in chosen.items()}
        yield line, {field: value for field, value in told.items() if value}
    # JSON may leave columns out; those of the last row stand for all.
    if header_seen is not None:
        columns.notice_unused(header_seen, chosen, FIELDS, uri, notices)


def _decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "".join(map(decode, content.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)))


def _rows_of_csv(uri: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields rows by column, each with the number of its (last) line."""
    # Lines may end in \r alone, which then comes in the first one too; else it is a stray one in a text.
    text = text.replace("\r\n", "\n")
    text = text.replace("\r", "\n" if "\r" in text.lstrip().partition("\n")[0] else " ")
    if told := _DELIMITER_FOR_EXCEL.match(text):  # an empty line stays, for the numbers of lines
        text = text[told.end() :]
    first = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = _delimiter_of(first)
    if delimiter == "|" and "path" not in columns.choose_columns(_header(first, delimiter), FIELDS):
        yield from _rows_of_ljspeech(text)
        return
    try:
        rows = list(_quoted_rows(uri, text, delimiter))
    except CorpusError:
        # Some tables are written without quoting, so that a quote is one.
        plain = [(place, line.split(delimiter)) for place, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if any(len(row) != len(plain[0][1]) for _, row in plain):
            raise
        rows = plain
    header = [name.strip() for name in rows[0][1]] if rows else []
    for line, row in rows[1:]:
        if any(field.strip() for field in row):
            yield line, {**dict.fromkeys(header, ""), **dict(zip(header, row, strict=False))}


def _header(line: str, delimiter: str) -> list[str]:
    return [name.strip(" \"'") for name in line.split(delimiter)]


def _delimiter_of(first: str) -> str:
    """What separates the fields of a table: that with which its first line names the most columns that we know."""

    def known(delimiter: str) -> tuple[int, int]:
        header = _header(first, delimiter)
        return len(columns.choose_columns(header, FIELDS)), len(header)

    if "|" in first and not any(known(delimiter)[0] for delimiter in DELIMITERS):
        return "|"
    return max(DELIMITERS, key=lambda delimiter: (*known(delimiter), -DELIMITERS.index(delimiter)))


def _quoted_rows(uri: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # A field may be the transcript of hours of speech; the limit only protects those who read line by line.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    num_columns = 0
    began = 1
    try:
        for row in reader:
            if not num_columns and row:
                num_columns = len(row)
            if len(row) > num_columns and any(field.strip() for field in row[num_columns:]):
                raise CorpusError(
                    f"line {reader.line_num} of {uri} has more fields than the first line names; put fields that "
                    f"hold a comma into double quotes"
                )
            if row:
                yield reader.line_num, row[:num_columns]
            began = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"line {began} of {uri} is not CSV: {error}") from error


def _rows_of_ljspeech(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a table without a first line of names: id|text|normalized text, without quoting."""
    for place, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            fields = line.split("|")
            yield place, {"path": fields[0], "text": next((text for text in reversed(fields[1:]) if text.strip()), "")}


def _rows_of_jsonl(uri: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields rows by key, each with the number of its line."""
    # Not splitlines(), which also splits at characters that a JSON string may contain, such as U+2028.
    for number, line in enumerate(re.split(r"\r\n|\n" if "\n" in text else r"\r", text), start=1):
        if not line.strip():
            continue
        try:
            row = foreign_json.parse(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:60]!r} is not an object")
            values = {key: str(value) for key, value in row.items() if value is not None}
            "".join(values.values()).encode()  # a lone surrogate such as \ud800 is valid JSON, but not text
        except ValueError as error:
            raise CorpusError(f"line {number} of {uri} is not JSON: {error}") from error
        yield number, values
