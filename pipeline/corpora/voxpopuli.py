"""VoxPopuli (github.com/facebookresearch/voxpopuli): the European Parliament, Ogg Vorbis at 16 kHz.

Sessions of several hours, as downloaded, unpacked or still in their tars:

    ROOT/raw_audios/<language>/<year>/<event>_<language>.ogg
    ROOT/raw_audios/<language>_<year>[_2].tar

Cut by the official scripts, without and with text:

    ROOT/unlabelled_data/<language>/<year>/<event>_<language>_<number>.ogg
    ROOT/transcribed_data/<language>/<year>/<event>-<id>.ogg
    ROOT/transcribed_data/<language>/asr_{train,dev,test}.tsv   id, raw_text, normalized_text, speaker_id, split, ...

Three tables are used if they are anywhere below ROOT: unlabelled_v2.tsv.gz (event_id, segment_no, start, end) says
where the sessions hold speech, and thus how long the cut files are; unlabelled_sd.tsv.gz says the same for another
segmentation; asr_<language>.tsv.gz says where in its session a transcribed file lies.

The language of a session is that of its channel: an interpreter's, in which the floor may be heard in another language.
`original` is the floor itself, whose language is not stated.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from pipeline.corpora import tars
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import number, read_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

_SESSION = re.compile(r"(?:.*/)?(?P<id>(?P<event>\d{8}-[^/]+)_(?P<channel>[a-z]{2}|original))\.ogg")
_CUT = re.compile(r"(?:.*/)?(?P<id>(?P<session>\d{8}-[^/]+_(?:[a-z]{2}|original))_(?P<number>\d+))\.ogg")
_TAR = re.compile(r"(?:.*/)?(?P<channel>[a-z]{2}|original)_\d{4}(?:_\d)?\.tar")
_TRANSCRIBED = re.compile(r"(?:.*/)?transcribed_data/(?P<language>[a-z]{2})/(?:.*/)?(?P<id>[^/]+)\.ogg")
# File names of the official scripts begin with this: only plenary sessions were transcribed.
_PLENARY = re.compile(r"\d{8}-\d{4}-PLENARY")
_FREE_TEXT = ("raw_text", "normalized_text", "normed_text", "original_text")
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_FOLDERS = {"raw_audios", "unlabelled_data", "transcribed_data"}
FLOOR = "original"

Times = tuple[float, float]


def is_voxpopuli(_: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder's audio and tars are all named like those of VoxPopuli."""
    found = [name for name in names if is_audio(name) or name.endswith(".tar")]
    forms = (_TRANSCRIBED, _CUT, _SESSION, _TAR)
    return bool(found) and all(
        not _FOLDERS.isdisjoint(name.split("/")[:-1]) and any(form.fullmatch(name) for form in forms) for name in found
    )


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields sessions and cut files in the order of their paths.

    Raises:
        CorpusError: no file below the root is named like one of VoxPopuli.
    """
    names = config.list_files()
    tables = _Tables(config, names)
    found = 0
    for name, uri in _audio(config, names):
        file = _read_file(name, uri, tables) if not isinstance(uri, AudioFile) else uri
        found += file.drop_reason is None
        yield file
    if not found:
        raise CorpusError(f"{config.root} holds no sessions of VoxPopuli, and none of the files cut from them")
    if tables.listed and not config.folders:
        tables.notices.add("description_without_audio", "{1} ({0})".format(*min(tables.listed)), len(tables.listed))
    yield from tables.notices


def _audio(config: CorpusConfig, names: list[str]) -> Iterator[tuple[str, str | AudioFile]]:
    """Yields the name and URI of each audio file, in tars too, or an AudioFile to drop for a damaged tar."""
    for name in names:
        uri = config.uri_of(name)
        # `folders` may name a language: the names of a tar's members begin with it.
        if name.endswith(".tar"):
            members, damage = tars.members_and_damage(config, name)
            for member in members:
                if is_audio(member.name) and config.takes(f"{name.rpartition('/')[0]}/{member.name}"):
                    yield member.name, tars.address(uri, member)
            if damage:
                yield name, damage
        elif is_audio(name) and config.takes(name):
            yield name, uri


def _read_file(name: str, uri: str, tables: _Tables) -> AudioFile:
    if match := _TRANSCRIBED.fullmatch(name):
        return _transcribed(match, uri, tables)
    if match := _CUT.fullmatch(name):
        return _cut(match, uri, tables)
    if match := _SESSION.fullmatch(name):
        return _session(match, uri, tables)
    return misplaced(name, uri)


def _session(match: re.Match[str], uri: str, tables: _Tables) -> AudioFile:
    channel = match["channel"]
    speech = tables.sessions.get(match["id"])
    return AudioFile(
        id=match["id"],
        uri=uri,
        language=None if channel == FLOOR else channel,
        language_source=None if channel == FLOOR else "channel",
        voice_activity=[list(times) for times in speech.values()] if speech else None,
        origins=[f"voxpopuli:{match['id']}"],
        origin_start_s=0.0,
    )


def _cut(match: re.Match[str], uri: str, tables: _Tables) -> AudioFile:
    session = match["session"]
    channel = session.rpartition("_")[2]
    times = tables.sessions.get(session, {}).get(match["number"])
    return AudioFile(
        id=match["id"],
        uri=uri,
        language=None if channel == FLOOR else channel,
        language_source=None if channel == FLOOR else "channel",
        # The session stands in for its speakers, who are unknown.
        speaker=session,
        origins=[f"voxpopuli:{session}"],
        origin_start_s=times[0] if times else None,
        origin_end_s=times[1] if times else None,
        duration_s=times[1] - times[0] if times else None,
        sample_rate_hz=16_000 if times else None,
        num_channels=1 if times else None,
    )


def _transcribed(match: re.Match[str], uri: str, tables: _Tables) -> AudioFile:
    row = tables.transcripts.get((match["language"], match["id"]))
    tables.listed.discard((match["language"], match["id"]))
    if row is None:
        detail = "no table of transcripts names it, or only with a split that there is none of"
        return AudioFile(match["id"], uri, drop_reason="unlisted", drop_detail=detail)
    told = _PLENARY.match(match["id"])
    event = row.get("session_id") or (told[0] if told else match["id"])
    start_s, end_s = number(row.get("start_time")), number(row.get("end_time"))
    speaker = row.get("speaker_id")
    return AudioFile(
        id=match["id"],
        uri=uri,
        language=match["language"],
        language_source="folder",
        speaker=speaker if speaker not in (None, "", "None", "0") else None,
        split=_SPLITS.get(row["split"], row["split"]),
        text=row.get("normalized_text") or row.get("raw_text") or row.get("normed_text") or row.get("original_text"),
        # Cut from the floor, which is also heard on the channel of the speaker's language.
        origins=[f"voxpopuli:{event}_{channel}" for channel in (FLOOR, match["language"])],
        origin_start_s=start_s,
        origin_end_s=end_s,
    )


class _Tables:
    """The contents of the tables.

    Attributes:
        sessions: (start, end) seconds of each cut file in its session, by session and number.
        transcripts: Rows by (language, id).
        listed: Transcripts of the tables beside the audio whose files have not been met yet.
        notices: Rows that cannot be read.
    """

    def __init__(self, config: CorpusConfig, names: list[str]) -> None:
        self.sessions: dict[str, dict[str, Times]] = defaultdict(dict)
        # The tables of all languages have 70 million rows: keep only those of the sessions that are here.
        taken = [name for name in names if config.takes(name)]
        matches = (_CUT.fullmatch(name) or _SESSION.fullmatch(name) for name in taken)
        self._present = {match.groupdict().get("session") or match["id"] for match in matches if match}
        in_tars = (_TAR.fullmatch(name) for name in names)
        self._in_tars = {match["channel"] for match in in_tars if match}
        self.transcripts: dict[tuple[str, str], dict[str, str]] = {}
        # Of transcripts beside the audio: those whose file has not been met yet.
        self.listed: set[tuple[str, str]] = set()
        self.notices = Notices()
        by_file = {name.rpartition("/")[2].removesuffix(".gz"): name for name in names if ".tsv" in name}
        # The usual segmentation comes last, so that it wins if both are there.
        for table, delimiter, columns in (
            ("unlabelled_sd.tsv", "|", ("session_id", "id_", "start_time", "end_time")),
            ("unlabelled_v2.tsv", "\t", ("event_id", "segment_no", "start", "end")),
        ):
            if table in by_file:
                self._read_cutting(config.uri_of(by_file[table]), delimiter, columns)
        for name in names:
            if match := re.fullmatch(r"(?:.*/)?asr_(?P<language>[a-z]{2})\.tsv(?:\.gz)?", name):
                self._read_official(config.uri_of(name), match["language"])
        for name in names:
            if match := re.fullmatch(r"(?:.*/)?(?P<language>[a-z]{2})/asr_(?:train|dev|test)\.tsv", name):
                self._read_split(config.uri_of(name), match["language"])

    def _read_cutting(self, uri: str, delimiter: str, columns: tuple[str, str, str, str]) -> None:
        session, segment, start, end = columns
        seen: set[str] = set()
        for row in read_columns(uri, delimiter, columns, notices=self.notices):
            start_s, end_s = number(row.get(start)), number(row.get(end))
            is_here = row[session] in self._present or row[session].rpartition("_")[2] in self._in_tars
            if not is_here or start_s is None or end_s is None or start_s >= end_s:
                continue
            if row[session] not in seen:
                seen.add(row[session])
                self.sessions[row[session]].clear()
            self.sessions[row[session]][row[segment]] = (start_s, end_s)

    def _read_official(self, uri: str, language: str) -> None:
        for row in read_columns(uri, "|", ("session_id", "id_", "split"), _FREE_TEXT, self.notices):
            if row.get("split") in _SPLITS:
                self.transcripts[language, f"{row['session_id']}-{row['id_']}"] = row

    def _read_split(self, uri: str, language: str) -> None:
        for row in read_columns(uri, "\t", ("id", "split"), _FREE_TEXT, self.notices):
            if row.get("split") in _SPLITS:
                self.listed.add((language, row["id"]))
                self.transcripts[language, row["id"]] = {**self.transcripts.get((language, row["id"]), {}), **row}
