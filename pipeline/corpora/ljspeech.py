"""LJSpeech (keithito.com/LJ-Speech-Dataset): one reader of English, WAV at 22,050 Hz, public domain.

ROOT/metadata.csv           id|text|text with numbers written out; no quoting
ROOT/wavs/<id>.wav
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.corpora.names import Names, refuse_strangers
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

from pipeline.corpora.source import Notice

TABLE = "metadata.csv"
_CLIP = re.compile(r"(?:.*/)?wavs/LJ\d{3}-\d{4}\.wav")


def is_ljspeech(_: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's audio is all named like LJSpeech's clips; a data set in its format may be of anybody."""
    audio = [name for name in names if is_audio(name)]
    tables = [name for name in names if name.rpartition("/")[2] == TABLE]
    return bool(audio) and len(tables) == 1 and all(_CLIP.fullmatch(name) for name in audio)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the clips in the order of their paths; those in the table without a file are dropped as missing.

    Raises:
        CorpusError: there is no metadata.csv.
    """
    names = config.list_files()
    tables = [name for name in names if PurePosixPath(name).name == TABLE]
    if not tables:
        raise CorpusError(f"{config.root} holds no {TABLE}; if it is no LJSpeech, its kind is `folder`")
    notices = Notices()
    texts = _read_texts(config.uri_of(tables[0]), notices)
    folder = tables[0].removesuffix(TABLE)
    present = set(names)
    files = Names([name for name in names if is_audio(name)], without_suffix=True)
    clips = {files.find(f"{folder}wavs/{id}.wav") or f"{folder}wavs/{id}.wav": id for id in texts}
    here = [name for name in names if is_audio(name)]
    other = next((name for name in here if name not in clips), "")
    missing = next((name for name in clips if name not in present), "")
    refuse_strangers(config, TABLE, (len(clips), missing), (len(here), other), len(clips.keys() & present))
    for name in sorted({*(name for name in names if is_audio(name)), *clips}):
        uri = config.uri_of(name)
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
    yield from notices


def _read_texts(uri: str, notices: Notices) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for place, line in enumerate(read_lines(uri), start=1):
        row = [field.strip() for field in line.split("|")]
        if len(row) >= 2 and row[0]:
            texts[row[0].removesuffix(".wav")] = next((text for text in reversed(row[1:]) if text), None)
        elif line.strip():
            notices.add("unreadable_row", f"line {place} of {uri}: {line[:60]!r}")
    return texts
