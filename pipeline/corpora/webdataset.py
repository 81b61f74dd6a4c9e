"""Tars of audio in WebDataset's format: members whose paths agree up to the first dot of the file name form a sample.

    ROOT/**/*.tar
        <key>.flac              the audio
        <key>.json              any of {language, speaker, split, text, duration}
        <key>.txt               the text

The members of a sample must be adjacent.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

from pipeline.corpora import tars
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, is_audio, misplaced
from pipeline.corpora.tables import number, parse_json
from pipeline.files import storage
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

# A larger .json or .txt is not the description of a clip.
LONGEST_TEXT_BYTES = 2**20
_TEXT_KEYS = ("text", "transcript", "transcription", "sentence")
_SPEAKER_KEYS = ("speaker", "speaker_id")


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile]:
    """Yields the audio members of the samples, tar by tar.

    Raises:
        CorpusError: there is no tar.
    """
    names = [name for name in storage.list_files(config.root) if config.takes(name)]
    chosen = [name for name in names if name.endswith((".tar", *tars.COMPRESSED_SUFFIXES))]
    if not chosen:
        raise CorpusError(f"{config.root} holds no tars")
    for name in names:
        if is_audio(name):
            yield misplaced(name, storage.join(config.root, name))
    yield from itertools.chain.from_iterable(spread(functools.partial(_read_tar, config.root), chosen))


def _read_tar(root: str, name: str) -> list[AudioFile]:
    """Reads the samples of one tar; runs on any machine."""
    uri = storage.join(root, name)
    files: list[AudioFile] = []
    try:
        for key, sample in itertools.groupby(tars.members(uri), key=lambda member: key_of(member.name)):
            files += _read_sample(name, uri, key, list(sample))
    except CorpusError as error:
        files.append(tars.as_damage(name, uri, error))
    return files


def key_of(name: str) -> str:
    """The key of a member's sample: its path up to the first dot of the file name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _read_sample(name: str, uri: str, key: str, sample: list[tars.Member]) -> Iterator[AudioFile]:
    known = _read_description(uri, sample)
    language = known.get("language")
    for member in sample:
        if not is_audio(member.name):
            continue
        yield AudioFile(
            # Keys are unique only within a tar; each audio member of a sample is a recording of its own.
            id=f"{name.removesuffix('.tar')}/{member.name}",
            uri=tars.address(uri, member),
            language=str(language) if language else None,
            language_source="recording" if language else None,
            speaker=_first(known, _SPEAKER_KEYS),
            split=known.get("split") or None,
            text=_first(known, _TEXT_KEYS),
            duration_s=number(known.get("duration")) or None,
            drop_reason="bad_name" if tars.leaves_its_folder(member.name) else None,
            drop_detail=f"the name {key!r} in a tar leaves its folder",
        )


def _first(known: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((str(known[key]) for key in keys if known.get(key) not in (None, "")), None)


def _read_description(uri: str, sample: list[tars.Member]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for member in sample:
        suffix = member.name.rpartition("/")[2].partition(".")[2]
        if suffix not in ("json", "txt") or member.length > LONGEST_TEXT_BYTES:
            continue
        content = storage.read_range(uri, member.offset, member.length)
        if suffix == "json":
            try:
                known = {**known, **parse_json(content, f"{member.name} of {uri}")}
            except CorpusError:
                continue  # an unreadable description is ignored
        else:
            known = {"text": content.decode(errors="replace").strip(), **known}
    return known
