"""LJSpeech (keithito.com/LJ-Speech-Dataset): one reader of English, WAV at 22,050 Hz, public domain.

ROOT/metadata.csv           id|text|text with numbers written out; no quoting
ROOT/wavs/<id>.wav
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, is_audio, misplaced
from pipeline.corpora.tables import read_lines
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = "metadata.csv"


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile]:
    """Yields the clips in the order of their paths; those in the table without a file are dropped as missing.

    Raises:
        CorpusError: there is no metadata.csv.
    """
    names = storage.list_files(config.root)
    tables = [name for name in names if PurePosixPath(name).name == TABLE]
    if not tables:
        raise CorpusError(f"{config.root} holds no {TABLE}; if it is no LJSpeech, its kind is `folder`")
    texts = _read_texts(storage.join(config.root, tables[0]))
    folder = tables[0].removesuffix(TABLE)
    present = set(names)
    clips = {f"{folder}wavs/{id}.wav": id for id in texts}
    for name in sorted({*(name for name in names if is_audio(name)), *clips}):
        uri = storage.join(config.root, name)
        if not config.takes(name):
            continue
        if name not in clips:
            yield misplaced(name, uri)
            continue
        if name not in present:  # never opened to check: a name in a table may point anywhere
            detail = f"{TABLE} names it, but there is no such file"
            yield AudioFile(clips[name], uri, drop_reason="missing", drop_detail=detail)
            continue
        yield AudioFile(
            id=clips[name],
            uri=uri,
            language="en",
            language_source="corpus",
            speaker="LJ",
            text=texts[clips[name]],
        )


def _read_texts(uri: str) -> dict[str, str | None]:
    rows = (line.split("|") for line in read_lines(uri) if line)
    return {row[0]: row[-1].strip() or None for row in rows if len(row) >= 2 and row[0]}
