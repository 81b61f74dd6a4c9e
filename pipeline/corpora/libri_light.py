"""Libri-Light (github.com/facebookresearch/libri-light): read English without text, 16 kHz FLAC made of 64 kbit/s MP3.

    ROOT/{small,medium,large,duplicate}/<speaker>/<book>/<file>.flac
    ROOT/{small,medium,large,duplicate}/<speaker>/<book>/<file>.json      speaker, file_length_sec, book_meta, snr,
                                                                           voice_activity: [[on, off], ...] in seconds

ROOT may also be one of these parts. All books are English. The parts are disjoint except for `duplicate`, which holds
other versions of the same books: it is left out unless `folders` names it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from pipeline.corpora.librivox import file_origin, section_of_stem, section_origins
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import number, parse_json
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

_FILE = re.compile(r"(?:.*/)?(?P<speaker>\d+)/(?P<book>[^/]+)/(?P<stem>[^/]+)\.flac")
DUPLICATES = "duplicate"


def is_libri_light(config: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's audio is all laid out like Libri-Light, with tables of its books beside it."""
    audio = [name for name in names if is_audio(name)]
    if not audio or not all(_FILE.fullmatch(name) for name in audio):
        return False
    table = f"{audio[0].removesuffix('.flac')}.json"
    uri = config.uri_of(table)
    return table in set(names) and "book_meta" in parse_json(storage.read_bytes(uri), uri)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the files (chapters) in the order of their paths.

    Raises:
        CorpusError: nothing below the root is laid out like Libri-Light.
    """
    names = config.list_files()
    tables = {name for name in names if name.endswith(".json")}
    found = 0
    notices = Notices()
    without_audio = {table for table in tables if config.takes(table) and _FILE.fullmatch(f"{table[:-5]}.flac")}
    for name in filter(config.takes, names):
        match = _FILE.fullmatch(name)
        if match is None:
            if is_audio(name):
                yield misplaced(name, config.uri_of(name))
            continue
        found += 1
        table = f"{name.removesuffix('.flac')}.json"
        without_audio.discard(table)
        file = AudioFile(
            id=name.removesuffix(".flac"),
            uri=config.uri_of(name),
            language="en",
            language_source="corpus",
            speaker=match["speaker"],
            speaker_namespace="librivox",
            origins=[file_origin(match["speaker"], match["stem"])],
            origin_start_s=0.0,
            complete=_read_table if table in tables else None,
        )
        if DUPLICATES in name.split("/") and DUPLICATES not in config.folders:
            file = dataclasses.replace(
                file,
                drop_reason="other_version",
                drop_detail="another version of a book that the other parts hold; `folders: [duplicate]` takes it",
            )
        yield file
    if not found:
        raise CorpusError(f"{config.root} holds no Libri-Light tree; expected <speaker>/<book>/<file>.flac below it")
    notices.add("description_without_audio", min(without_audio, default=""), len(without_audio))
    yield from notices


def _read_table(file: AudioFile) -> AudioFile:
    """Adds what the JSON beside a file says: length, voice activity, title, and the LibriVox project and section."""
    uri = f"{file.uri.removesuffix('.flac')}.json"
    try:
        facts = parse_json(storage.read_bytes(uri), uri)
    except (CorpusError, FileNotFoundError):
        return file  # the audio header is enough
    duration_s = number(facts.get("file_length_sec"))
    book = facts.get("book_meta")
    project = str(book.get("id", "")) if isinstance(book, dict) else ""
    stem = file.uri.rpartition("/")[2].removesuffix(".flac")
    return dataclasses.replace(
        file,
        voice_activity=_speech(facts.get("voice_activity")),
        description=str(book["title"]) if isinstance(book, dict) and book.get("title") else None,
        origins=[*(file.origins or []), *(section_origins(file.speaker or "", project, section_of_stem(stem)) or [])],
        duration_s=duration_s or None,
        sample_rate_hz=16_000 if duration_s else None,
        num_channels=1 if duration_s else None,
    )


def _speech(activity: object) -> list[list[float]] | None:
    """The valid (on, off) pairs, in seconds, of a file's voice activity; None if it has none."""
    if not isinstance(activity, list):
        return None
    pairs = [pair for pair in activity if isinstance(pair, list) and len(pair) == 2]
    return [[float(on_s), float(off_s)] for on_s, off_s in pairs if number(on_s) is not None and number(off_s)]
