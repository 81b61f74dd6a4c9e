"""Manifests of fairseq (wav2vec 2.0, HuBERT, textless NLP): tables of files with their numbers of samples.

    ROOT/**/<split>.tsv         a folder on the first line, then <path in that folder> TAB <samples>

The folder is absolute, or relative to the table. Rows without a sample rate do not tell how long a file is: headers are
read. Rows that point into zip files (`x.zip:<offset>:<length>`) are dropped.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.corpora.columns import split_of_table
from pipeline.corpora.file_lists import find_lists, notice_undescribed
from pipeline.corpora.names import leaves_its_folder
from pipeline.corpora.source import AudioFile, CorpusConfig, Notices
from pipeline.corpora.tables import read_lines
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

EXPECTED = "of fairseq; expected .tsv files with a folder on the first line, then <path> TAB <samples>"
_ROW = re.compile(r"(?P<path>[^\t]+)\t(?P<samples>\d+)")
_IN_ZIP = re.compile(r".*\.zip:\d+:\d+")


def is_fairseq(config: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's tables are all such manifests."""
    tables = [name for name in names if _is_table(name)]
    return bool(tables) and all(_is_manifest(config.uri_of(name)) for name in tables)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the files in the order of the tables.

    Raises:
        CorpusError: there is no table of this form.
    """
    names = config.list_files()
    notices = Notices()
    named: set[str] = set()
    for name in find_lists(config, names, _is_table, _is_manifest, EXPECTED, notices):
        for file in _read_table(config, name, notices):
            named.add(file.uri)
            yield file
    notice_undescribed(config, names, named, notices)
    yield from notices


def _is_table(name: str) -> bool:
    return name.endswith(".tsv")


def _is_manifest(uri: str) -> bool:
    first = list(itertools.islice(read_lines(uri), 2))
    return len(first) == 2 and bool(first[0].strip()) and "\t" not in first[0] and bool(_ROW.fullmatch(first[1]))


def _read_table(config: CorpusConfig, name: str, notices: Notices) -> Iterator[AudioFile]:
    uri = config.uri_of(name)
    lines = enumerate(read_lines(uri), start=1)
    folder = next(lines)[1].strip()
    if not folder.startswith(("/", "s3://")):
        beside = uri.rpartition("/")[0]
        scheme = "s3://" if storage.is_s3(beside) else ""
        folder = scheme + posixpath.normpath(f"{beside.removeprefix(scheme)}/{folder}")
    split = split_of_table(PurePosixPath(name).stem)
    for number, line in lines:
        row = _ROW.fullmatch(line)
        if row is None:
            if line.strip():
                notices.add("unreadable_row", f"line {number} of {uri} is not <path> TAB <samples>")
            continue
        path = row["path"]
        file = AudioFile(id=path.lstrip("/"), uri=storage.join(folder, path), split=split)
        if _IN_ZIP.fullmatch(path):
            yield AudioFile(file.id, file.uri, drop_reason="unsupported_source", drop_detail="bytes of a zip file")
        elif leaves_its_folder(path):
            detail = f"the path {path!r} of line {number} of {uri} leaves the folder"
            yield AudioFile(file.id, file.uri, drop_reason="bad_name", drop_detail=detail)
        else:
            yield file
