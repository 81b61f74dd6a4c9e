"""Manifests of Lhotse (github.com/lhotse-speech/lhotse): recordings and supervisions, or cuts.

    ROOT/**/*recordings*.jsonl[.gz]         with *supervisions*.jsonl[.gz] beside them
    ROOT/**/*cuts*.jsonl[.gz]               used only if there are no recordings

ROOT may hold several of each. A recording of several channels becomes one recording per channel if its supervisions
name single channels. The times of supervisions or cuts are the voice activity. Sources are files or s3:// objects;
relative paths start at ROOT. Sources that are commands or web addresses are dropped.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError
from pipeline.corpora.tables import number, read_json_lines
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile]:
    """Yields the recordings in the order of the manifests.

    Raises:
        CorpusError: there are no manifests, or a line of one is not a JSON object.
    """
    names = [name for name in storage.list_files(config.root) if name.endswith((".jsonl", ".jsonl.gz"))]
    recordings, supervisions, cuts = (
        [storage.join(config.root, name) for name in names if what in PurePosixPath(name).name]
        for what in ("recordings", "supervisions", "cuts")
    )
    if recordings:
        said: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in itertools.chain.from_iterable(map(read_json_lines, supervisions)):
            said[str(row.get("recording_id"))].append(row)
        for row in itertools.chain.from_iterable(map(read_json_lines, recordings)):
            yield from _read_recording(config, row, said.pop(str(row.get("id")), []))
        return
    if not cuts:
        raise CorpusError(
            f"{config.root} holds no manifests of Lhotse; expected files called ...recordings....jsonl[.gz] or "
            f"...cuts....jsonl[.gz]"
        )
    for recording, spoken in _by_recording(itertools.chain.from_iterable(map(read_json_lines, cuts))):
        yield from _read_recording(config, recording, spoken)


def _by_recording(cuts: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yields each recording that cuts were made from, with its cuts as supervisions; skips MixedCuts (of several)."""
    recordings: dict[str, dict[str, Any]] = {}
    spoken: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cut in cuts:
        recording = cut.get("recording")
        if not isinstance(recording, dict):
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


def _read_recording(config: CorpusConfig, row: dict[str, Any], said: list[dict[str, Any]]) -> Iterator[AudioFile]:
    id = str(row.get("id"))
    duration_s, rate_hz = number(row.get("duration")), number(row.get("sampling_rate"))
    sources = [source for source in row.get("sources") or [] if isinstance(source, dict)]
    if len(sources) != 1 or sources[0].get("type") != "file" or not sources[0].get("source"):
        what = " and ".join(str(source.get("type")) for source in sources) or "no source"
        yield AudioFile(id, id, drop_reason="unsupported_source", drop_detail=f"{what} in place of one file")
        return
    source = str(sources[0]["source"])
    uri = source if source.startswith(("/", "s3://")) else storage.join(config.root, source)
    if not source.startswith(("/", "s3://")) and ".." in PurePosixPath(source).parts:
        yield AudioFile(id, uri, drop_reason="bad_name", drop_detail=f"the path {source!r} leaves the folder")
        return
    channels = sources[0].get("channels") or [0]
    heard = {channel: _on_channel(said, channel) for channel in channels}
    # If supervisions name single channels, each channel has its own speaker.
    apart = len(channels) > 1 and any(isinstance(r.get("channel"), int) for r in said)
    for channel in channels if apart else [None]:
        rows = said if channel is None else heard[channel]
        yield AudioFile(
            id=id if channel is None else f"{id}-{channel}",
            uri=uri,
            channel=channel,
            language=_agreed(rows, "language"),
            language_source="recording" if _agreed(rows, "language") else None,
            speaker=_agreed(rows, "speaker"),
            text=" ".join(str(r["text"]) for r in rows if r.get("text")) or None,
            voice_activity=_times(rows, duration_s),
            duration_s=duration_s or None,
            sample_rate_hz=int(rate_hz) if rate_hz else None,
            num_channels=len(channels),
        )


def _on_channel(rows: list[dict[str, Any]], channel: int) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("channel") == channel or channel in _as_list(row.get("channel"))]


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _agreed(rows: list[dict[str, Any]], key: str) -> str | None:
    """The value that all rows with one share; None if they differ or none has one."""
    values = {str(row[key]) for row in rows if row.get(key)}
    return values.pop() if len(values) == 1 else None


def _times(rows: list[dict[str, Any]], duration_s: float | None) -> list[list[float]] | None:
    """The (start, end) seconds of rows; None if a row has none, or if one row covers the whole recording."""
    times: list[list[float]] = []
    for row in rows:
        start_s, length_s = number(row.get("start")), number(row.get("duration"))
        if start_s is None or not length_s:
            return None
        times.append([start_s, start_s + length_s])
    if duration_s and len(times) == 1 and times[0][0] == 0 and times[0][1] >= duration_s - 1e-3:
        return None
    return times or None
