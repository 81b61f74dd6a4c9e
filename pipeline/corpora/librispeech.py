"""LibriSpeech (openslr.org/12): read English, FLAC at 16 kHz.

    ROOT/<split>/<speaker>/<chapter>/<speaker>-<chapter>-<NNNN>.flac
    ROOT/<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt        "ID TEXT" a line
    ROOT/CHAPTERS.TXT       chapter | reader | minutes | subset | LibriVox project | book | title | project's title

ROOT may be the folder `LibriSpeech` itself or the one that holds it. dev-* is validation, test-* is test. CHAPTERS.TXT
says which section of which LibriVox project a chapter is; Libri-Light's recordings of it are found by that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.corpora.librivox import section_of_title, section_origins
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

_UTTERANCE = re.compile(
    r"(?P<folder>(?:.*/)?(?P<part>(?:train|dev|test)-[a-z]+(?:-\d+)?)/(?P<speaker>\d+)/(?P<chapter>\d+)/)"
    r"(?P<id>(?P=speaker)-(?P=chapter)-\d+)\.flac"
)
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def is_librispeech(_: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's files are laid out like LibriSpeech, with no other audio, which this reader would drop."""
    audio = [name for name in names if is_audio(name)]
    return bool(audio) and all(_UTTERANCE.fullmatch(name) for name in audio)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the utterances in the order of their paths, each with speaker, split and transcript.

    Raises:
        CorpusError: nothing below the root is laid out like LibriSpeech.
    """
    names = config.list_files()
    transcripts = {name for name in names if name.endswith(".trans.txt")}
    chapters = [name for name in names if name.rpartition("/")[2] == "CHAPTERS.TXT"]
    origins = _read_chapters(config.uri_of(chapters[0])) if chapters else {}
    texts: dict[str, str] = {}
    chapter_read = ""
    found = 0
    notices = Notices()
    for name in filter(config.takes, names):
        match = _UTTERANCE.fullmatch(name)
        if match is None:
            if is_audio(name):
                yield misplaced(name, config.uri_of(name))
            continue
        found += 1
        transcript = f"{match['folder']}{match['speaker']}-{match['chapter']}.trans.txt"
        if transcript != chapter_read:
            notices.add("description_without_audio", next(iter(texts), ""), len(texts))
            texts = _read_transcript(config.uri_of(transcript)) if transcript in transcripts else {}
            chapter_read = transcript
        yield AudioFile(
            id=match["id"],
            uri=config.uri_of(name),
            language="en",
            language_source="corpus",
            speaker=match["speaker"],
            speaker_namespace="librivox",  # shared with Libri-Light and MLS
            split=_SPLITS[match["part"].partition("-")[0]],
            text=texts.pop(match["id"], None),  # what is left of a chapter is noticed
            origins=origins.get(match["chapter"]),
        )
    if not found:
        raise CorpusError(
            f"{config.root} holds no LibriSpeech tree; expected <split>/<speaker>/<chapter>/<utterance>.flac below it"
        )
    notices.add("description_without_audio", next(iter(texts), ""), len(texts))
    yield from notices


def _read_transcript(uri: str) -> dict[str, str]:
    lines = (line.strip().partition(" ") for line in read_lines(uri) if line.strip())
    return {utterance: text.strip() for utterance, _, text in lines}


def _read_chapters(uri: str) -> dict[str, list[str]]:
    """Reads CHAPTERS.TXT: the origins of each chapter whose title gives its section's number."""
    origins: dict[str, list[str]] = {}
    for line in read_lines(uri):
        fields = [field.strip() for field in line.split("|")]
        if line.startswith(";") or len(fields) < 7:
            continue
        chapter, reader, _, _, project, _, title = fields[:7]
        if found := section_origins(reader, project, section_of_title(title)):
            origins[chapter] = found
    return origins
