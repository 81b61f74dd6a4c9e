"""Multilingual LibriSpeech (openslr.org/94): read speech in eight languages, FLAC or Opus, from LibriVox.

    ROOT/mls_<language>[_opus]/{train,dev,test}/audio/<speaker>/<book>/<speaker>_<book>_<NNNNNN>.{flac,opus}
    ROOT/mls_<language>[_opus]/{train,dev,test}/transcripts.txt     id TAB text
    ROOT/mls_<language>[_opus]/{train,dev,test}/segments.txt        id TAB url of the recording TAB start TAB end, s

ROOT may also be the folder of one language. The folder names the language. All audio is at 16 kHz; libsndfile decodes
the Opus files at that rate too.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.corpora.librivox import file_origin
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import number, read_lines
from pipeline.languages import normalize_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

_UTTERANCE = re.compile(
    r"(?P<folder>(?:(?:.*/)?mls_(?P<language>[a-z]+)(?:_opus)?/)?(?P<split>train|dev|test)/)audio/"
    r"(?P<speaker>\d+)/(?P<book>\d+)/(?P<id>(?P=speaker)_(?P=book)_\d+)\.(?:flac|opus)"
)
_ROOT = re.compile(r".*mls_(?P<language>[a-z]+?)(?:_opus)?")
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def is_mls(_: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's audio is all laid out like MLS, with transcripts beside it."""
    audio = [name for name in names if is_audio(name)]
    has_texts = any(name.rpartition("/")[2] == "transcripts.txt" for name in names)
    return bool(audio) and has_texts and all(_UTTERANCE.fullmatch(name) for name in audio)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the utterances in the order of their paths.

    Raises:
        CorpusError: nothing below the root is laid out like MLS.
    """
    names = config.list_files()
    present = {name for name in names if name.endswith(".txt")}
    of_root = _ROOT.fullmatch(config.root.rstrip("/"))
    folder_read = ""
    texts: dict[str, str] = {}
    places: dict[str, tuple[str, str, str]] = {}
    found = 0
    notices = Notices()

    def notice_what_is_left() -> None:
        if not config.folders:
            left = texts.keys() | places.keys()
            notices.add("description_without_audio", f"{min(left, default='')} of {folder_read}", len(left))

    for name in filter(config.takes, names):
        match = _UTTERANCE.fullmatch(name)
        if match is None:
            if is_audio(name):
                yield misplaced(name, config.uri_of(name))
            continue
        found += 1
        if match["folder"] != folder_read:
            notice_what_is_left()
            folder_read = match["folder"]
            tables = {table: f"{folder_read}{table}.txt" for table in ("transcripts", "segments")}
            uris = {table: config.uri_of(path) for table, path in tables.items() if path in present}
            texts = _read_transcripts(uris["transcripts"]) if "transcripts" in uris else {}
            places = _read_segments(uris["segments"]) if "segments" in uris else {}
        language = match["language"] or (of_root["language"] if of_root else None)
        yield _utterance(config, name, match, language, texts.pop(match["id"], None), places.pop(match["id"], None))
    if not found:
        raise CorpusError(
            f"{config.root} holds no MLS tree; expected mls_<language>/<split>/audio/<speaker>/<book>/ below it"
        )
    notice_what_is_left()
    yield from notices


def _utterance(
    config: CorpusConfig,
    name: str,
    match: re.Match[str],
    language: str | None,
    text: str | None,
    place: tuple[str, str, str] | None,
) -> AudioFile:
    url, start, end = place or ("", "", "")
    start_s, end_s = number(start), number(end)
    is_placed = start_s is not None and end_s is not None and start_s < end_s
    return AudioFile(
        id=f"{language}/{match['id']}" if language else match["id"],
        uri=config.uri_of(name),
        language=normalize_code(language) if language else None,
        language_source="folder" if language else None,
        speaker=match["speaker"],
        speaker_namespace="librivox",
        split=_SPLITS[match["split"]],
        text=text,
        origins=[file_origin(match["speaker"], PurePosixPath(url).stem)] if url else None,
        origin_start_s=start_s if is_placed else None,
        origin_end_s=end_s if is_placed else None,
        duration_s=end_s - start_s if start_s is not None and end_s is not None and is_placed else None,
        sample_rate_hz=16_000 if is_placed else None,
        num_channels=1 if is_placed else None,
    )


def _read_transcripts(uri: str) -> dict[str, str]:
    return {id: text.strip() for id, _, text in (line.partition("\t") for line in read_lines(uri)) if text}


def _read_segments(uri: str) -> dict[str, tuple[str, str, str]]:
    rows = (line.split("\t") for line in read_lines(uri))
    return {row[0]: (row[1], row[2], row[3]) for row in rows if len(row) >= 4}
