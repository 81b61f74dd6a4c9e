"""Fisher English (LDC2004S13, LDC2005S13; text LDC2004T19, LDC2005T19): telephone calls, two-channel SPHERE at 8 kHz.

    ROOT/**/audio/<NNN>/fe_03_<NNNNN>.sph
    ROOT/**/data/trans/<NNN>/fe_03_<NNNNN>.txt          "start end A: text" a line
    ROOT/**/doc/*_calldata.tbl                          a call a line; fields 1, 6, 11: its number, the PINs of A and B

Each channel is a recording of its own with one speaker: A on the first, B on the second. The transcript says when each
speaks. Only the audio header gives the length of a call. Files compressed with `shorten` cannot be decoded; LDC's
sph2pipe decompresses them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import number, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

_CALL = re.compile(r"(?:.*/)?(?P<id>fe_03_(?P<number>\d{5}))\.(?:sph|wav|flac)")
_TRANSCRIPT = re.compile(r"(?:.*/)?trans/(?:.*/)?(?P<id>fe_03_\d{5})\.txt")
_LINE = re.compile(r"(?P<start>[\d.]+)\s+(?P<end>[\d.]+)\s+(?P<side>[AB]):\s*(?P<text>.*)")
SIDES = ("A", "B")
# One transcript has a line at 31.09 that, by its neighbours, should be at 231.09.
MISTAKEN_START_S = {("fe_03_11487", 31.09, 234.06): 231.09}


def is_fisher(_: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's audio is all named like calls of Fisher."""
    audio = [name for name in names if is_audio(name)]
    return bool(audio) and all(_CALL.fullmatch(name) for name in audio)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the two sides of each call, in the order of the calls' paths.

    Raises:
        CorpusError: no file below the root is named like a call of Fisher.
    """
    names = config.list_files()
    transcripts = {match["id"]: name for name in names if (match := _TRANSCRIPT.fullmatch(name))}
    speakers: dict[tuple[str, str], str] = {}
    for name in names:
        if name.endswith("_calldata.tbl"):
            speakers |= _read_speakers(config.uri_of(name))
    found = 0
    for name in filter(config.takes, names):
        match = _CALL.fullmatch(name)
        uri = config.uri_of(name)
        if match is None:
            if is_audio(name):
                yield misplaced(name, uri)
            continue
        found += 1
        id = match["id"]
        transcript = transcripts.pop(id, None)  # what is left is noticed
        sides = _read_transcript(config.uri_of(transcript), id) if transcript else {}
        for channel, side in enumerate(SIDES):
            turns = sides.get(side, [])
            yield AudioFile(
                id=f"{id}-{side}",
                uri=uri,
                channel=channel,
                language="en",
                language_source="corpus",
                speaker=speakers.get((match["number"], side)),
                text=" ".join(text for _, _, text in turns) or None,
                voice_activity=[[start_s, end_s] for start_s, end_s, _ in turns] if sides else None,
            )
    if not found:
        raise CorpusError(f"{config.root} holds no calls of Fisher; expected audio/<NNN>/fe_03_<NNNNN>.sph below it")
    notices = Notices()
    if not config.folders:
        notices.add("description_without_audio", min(transcripts.values(), default=""), len(transcripts))
    yield from notices


def _read_speakers(uri: str) -> dict[tuple[str, str], str]:
    """Reads a table of calls: the speaker's PIN by (call number, side)."""
    rows = [line.split(",") for line in read_lines(uri)]
    return {
        (row[0].strip(), side): row[place].strip()
        for row in rows
        for side, place in zip(SIDES, (5, 10), strict=True)
        if len(row) > place and row[0].strip().isdigit() and row[place].strip()
    }


def _read_transcript(uri: str, id: str) -> dict[str, list[tuple[float, float, str]]]:
    """Reads a transcript: (start_s, end_s, text) of each turn, by side."""
    sides: dict[str, list[tuple[float, float, str]]] = {side: [] for side in SIDES}
    for line in read_lines(uri):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        start_s, end_s = number(match["start"]), number(match["end"])
        if start_s is None or end_s is None:
            continue
        start_s = MISTAKEN_START_S.get((id, start_s, end_s), start_s)
        if start_s < end_s:
            sides[match["side"]].append((start_s, end_s, match["text"]))
    return sides
