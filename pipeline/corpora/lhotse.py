"""Manifests of Lhotse (github.com/lhotse-speech/lhotse): recordings and supervisions, or cuts.

    ROOT/**/*recordings*.jsonl[.gz]         with *supervisions*.jsonl[.gz] beside them
    ROOT/**/*cuts*.jsonl[.gz]               used only if there are no recordings

ROOT may hold several of each. A recording of several channels becomes one recording per channel if its supervisions
name single channels. The times of supervisions or cuts are the voice activity. Sources are files or s3:// objects;
relative paths start at ROOT. Sources that are commands or web addresses are dropped.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.corpora import stretches
from pipeline.corpora.columns import notice_unused
from pipeline.corpora.names import Names, leaves_its_folder, refuse_strangers
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, is_hidden
from pipeline.corpora.tables import number, read_json_lines
from pipeline.errors import brief
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

# More are in no file that a decoder reads.
MOST_CHANNELS = 1024
# A higher one is not true; the file's own header tells then.
MAX_SAMPLE_RATE_HZ = 2**24
_FIELDS = ("language", "speaker", "text", "duration")


def is_lhotse(config: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder has manifests of Lhotse, and no other table."""
    manifests = [name for name in names if re.search(r"(recordings|cuts)[^/]*\.jsonl(\.gz)?$", name)]
    if not manifests:
        return False
    first = next(read_json_lines(config.uri_of(manifests[0])), {})
    return "sources" in first or isinstance(first.get("recording"), dict)


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the recordings in the order of the manifests.

    Raises:
        CorpusError: there are no manifests, or a line of one is not a JSON object.
    """
    names = [name for name in config.list_files() if name.endswith((".jsonl", ".jsonl.gz"))]
    recordings, supervisions, cuts = (
        [config.uri_of(name) for name in names if what in PurePosixPath(name).name]
        for what in ("recordings", "supervisions", "cuts")
    )
    files = Names(storage.list_files(config.root))
    notices = Notices()
    if recordings:
        said: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in itertools.chain.from_iterable(map(read_json_lines, supervisions)):
            said[_id_of(row.get("recording_id"))].append(row)
        num_described, num_recordings, matched, other = len(said), 0, 0, ""
        for row in itertools.chain.from_iterable(map(read_json_lines, recordings)):
            id = _id_of(row.get("id"))
            num_recordings += 1
            matched += id in said
            other = other or ("" if id in said else id)
            yield from _read_recording(config, row, said.pop(id, []), files, notices)
        notices.add("description_without_audio", next(iter(said), ""), sum(map(len, said.values())))
        for uri in cuts:
            notices.add("unread_file", uri)
        examples = next(iter(said), ""), other
        table = f"the supervisions of {config.root}"
        refuse_strangers(config, table, (num_described, examples[0]), (num_recordings, examples[1]), matched)
    elif cuts:
        for recording, spoken in _by_recording(itertools.chain.from_iterable(map(read_json_lines, cuts)), notices):
            yield from _read_recording(config, recording, spoken, files, notices)
        for uri in supervisions:
            notices.add("unread_file", uri)
    else:
        raise CorpusError(
            f"{config.root} holds no manifests of Lhotse; expected files called ...recordings....jsonl[.gz] or "
            f"...cuts....jsonl[.gz]"
        )
    left = [name for name in files if is_audio(name) and not is_hidden(name) and name not in files.found]
    if not config.folders:
        notices.add("undescribed_audio", next(iter(left), ""), len(left))
    yield from notices


def _id_of(value: object) -> str:
    return unicodedata.normalize("NFC", str(value)).strip()


def _by_recording(
    cuts: Iterator[dict[str, Any]], notices: Notices
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yields each recording that cuts were made from, with its cuts as supervisions; skips MixedCuts (of several)."""
    recordings: dict[str, dict[str, Any]] = {}
    spoken: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cut in cuts:
        recording = cut.get("recording")
        if not isinstance(recording, dict):
            notices.add("unsupported_cut", f"{cut.get('id')}: {cut.get('type')}, without a recording of its own")
            continue
        id = str(recording.get("id"))
        recordings.setdefault(id, recording)
        within = [row for row in cut.get("supervisions") or [] if isinstance(row, dict)]
        told = within[0] if within else {}
        texts = [str(row["text"]) for row in within if row.get("text")]
        spoken[id].append(
            {
                **{key: told.get(key) for key in ("speaker", "language")},
                "text": " ".join(texts),
                "start": cut.get("start"),
                "duration": cut.get("duration"),
                "channel": cut.get("channel", 0),
            }
        )
    for id, recording in recordings.items():
        yield recording, spoken[id]


def _read_recording(
    config: CorpusConfig, row: dict[str, Any], said: list[dict[str, Any]], files: Names, notices: Notices
) -> Iterator[AudioFile]:
    id = str(row.get("id"))
    duration_s, rate_hz = number(row.get("duration")), number(row.get("sampling_rate"))
    sources = [source for source in row.get("sources") or [] if isinstance(source, dict)]
    if len(sources) != 1 or sources[0].get("type") != "file" or not sources[0].get("source"):
        what = " and ".join(str(source.get("type")) for source in sources) or "no source"
        yield AudioFile(id, id, drop_reason="unsupported_source", drop_detail=f"{what} in place of one file")
        return
    source = str(sources[0]["source"]).removeprefix(f"{config.root.rstrip('/')}/")
    uri = source
    if not source.startswith(("/", "s3://")):
        found = files.find(source)
        uri = config.uri_of(found or source)
        if leaves_its_folder(source):
            yield AudioFile(id, uri, drop_reason="bad_name", drop_detail=f"the path {source!r} leaves the folder")
            return
        if found is None:
            detail = f"the recording's source {source!r} is not below {config.root}"
            yield AudioFile(id, uri, drop_reason="missing", drop_detail=detail)
            return
    channels = sources[0].get("channels") or [0]
    if not isinstance(channels, list) or len(channels) > MOST_CHANNELS or not all(map(_is_channel, channels)):
        yield AudioFile(id, uri, drop_reason="unsupported_source", drop_detail=f"channels {brief(channels)}")
        return
    for spoken in said:
        notice_unused(spoken, {field: field for field in _FIELDS}, _FIELDS, f"a supervision of {id}", notices)
    heard = {channel: _on_channel(said, channel) for channel in channels}
    # If supervisions name single channels, each channel has its own speaker.
    apart = len(channels) > 1 and any(isinstance(r.get("channel"), int) for r in said)
    for channel in channels if apart else [None]:
        rows = said if channel is None else heard[channel]
        yield AudioFile(
            id=id if channel is None else f"{id}-{channel}",
            uri=uri,
            channel=channel,
            language=stretches.language(rows),
            language_source="recording" if stretches.language(rows) else None,
            speaker=stretches.agreed(rows, "speaker"),
            text=stretches.text(rows),
            voice_activity=stretches.times(rows, duration_s),
            duration_s=duration_s or None,
            duration_from="duration",
            sample_rate_hz=int(rate_hz) if rate_hz and rate_hz <= MAX_SAMPLE_RATE_HZ else None,
            num_channels=len(channels),
        )


def _is_channel(channel: object) -> bool:
    return isinstance(channel, int) and 0 <= channel < MOST_CHANNELS


def _on_channel(rows: list[dict[str, Any]], channel: int) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("channel") == channel or channel in _as_list(row.get("channel"))]


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
