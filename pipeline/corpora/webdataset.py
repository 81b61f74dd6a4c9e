"""Tars of audio in WebDataset's format: members of one name with different suffixes form a sample.

    ROOT/**/*.tar
        <key>.flac              the audio
        <key>.json              any of {language, speaker, split, text, duration}, under their usual names
        <key>.txt               the text

The members of a sample may be anywhere in the tar. A description belongs to the audio of its whole name without the
suffix; else to all audio whose name is the same up to the first dot, which is where WebDataset ends a key.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.audio.errors import AudioError
from pipeline.audio.places import read_patiently
from pipeline.corpora import columns, tars
from pipeline.corpora.names import refuse_strangers
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio, misplaced
from pipeline.corpora.tables import decode, parse_json
from pipeline.files import storage
from pipeline.files.places import reason_of
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.corpora.source import Notice

# A larger .json or .txt is not the description of a clip.
LONGEST_TEXT_BYTES = 2**20
FIELDS = ("language", "speaker", "split", "text", "duration")


def is_webdataset(_: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder has tars, and no other audio."""
    return any(name.lower().endswith(".tar") for name in names) and not any(map(is_audio, names))


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the audio members of the samples, tar by tar.

    Raises:
        CorpusError: there is no tar, or most descriptions and most audio of a tar do not fit.
    """
    names = [name for name in config.list_files() if config.takes(name)]
    chosen = [name for name in names if name.lower().endswith((".tar", *tars.COMPRESSED_SUFFIXES))]
    if not chosen:
        raise CorpusError(f"{config.root} holds no tars")
    for name in names:
        if is_audio(name):
            yield misplaced(name, config.uri_of(name))
    fits: list[_Fit] = []
    for files, fit in spread(functools.partial(_read_tar, config), chosen):
        fits.append(fit)
        yield from files
    described, audio, matched = (sum(getattr(fit, what) for fit in fits) for what in ("described", "audio", "matched"))
    if described >= audio / 2:  # not for the README of tars without any
        stray = next((fit.stray for fit in fits if fit.stray), "")
        example = next((fit.example for fit in fits if fit.example), "")
        table = f"the descriptions in the tars of {config.root}"
        refuse_strangers(config, table, (described, stray), (audio, example), matched)


class _Fit(NamedTuple):
    """How descriptions and audio of a tar fit: their numbers, how many have a match, and examples without one."""

    described: int
    audio: int
    matched: int
    stray: str
    example: str


def _read_tar(config: CorpusConfig, name: str) -> tuple[list[AudioFile | Notice], _Fit]:
    """Reads the samples of one tar; runs on any machine."""
    uri = config.uri_of(name)
    members, damage = tars.members_and_damage(config, name)
    audio = [place for place, member in enumerate(members) if is_audio(member.name)]
    notices = Notices()
    described, fit = _match(uri, members, audio, notices)
    contents = _read_descriptions(config, uri, members, {of for places in described.values() for of in places})
    files: list[AudioFile | Notice] = []
    seen: set[str] = set()
    for place in audio:
        member = members[place]
        # Keys are unique only within a tar; each audio member of a sample is a recording of its own.
        id = f"{name.removesuffix('.tar')}/{member.name}"
        if id in seen:  # in tars of which one was put behind the other
            id = f"{id}@{member.offset}"
        seen.add(id)
        files.append(
            _read_member(uri, id, member, [(members[of], contents.get(of)) for of in described[place]], notices)
        )
    if damage:
        files.append(damage)
    return [*files, *notices], fit


def key_of(name: str) -> str:
    """The key of a member's sample: its path up to the first dot of the file name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _composed(name: str) -> str:
    """A name with its letters composed, of which macOS takes those with accents apart."""
    return unicodedata.normalize("NFC", name)


def _stem_of(name: str) -> str:
    return name.rpartition(".")[0]


def _match(
    uri: str, members: Sequence[tars.Member], audio: Sequence[int], notices: Notices
) -> tuple[dict[int, list[int]], _Fit]:
    """Finds the descriptions of each audio member, the surest first, by their places in the tar."""
    descriptions = [place for place, member in enumerate(members) if _is_description(member.name)]
    of_audio: dict[str, list[int]] = defaultdict(list)
    for place in audio:
        name = _composed(members[place].name)
        for form in dict.fromkeys((name, _stem_of(name), f"{key_of(name)}.*")):
            of_audio[form].append(place)
    surest: dict[int, list[int]] = defaultdict(list)
    by_key: dict[int, list[int]] = defaultdict(list)
    stray: list[int] = []
    for place in descriptions:
        name = _composed(members[place].name)
        if found := of_audio.get(_stem_of(name)):
            surest[place] = found
        elif found := of_audio.get(f"{key_of(name)}.*"):
            by_key[place] = found
        else:
            stray.append(place)
    if stray:
        notices.add("description_without_audio", f"{members[stray[0]].name} in {uri}", len(stray))
    described: dict[int, list[int]] = defaultdict(list)
    for found_by in (surest, by_key):
        of_name: dict[tuple[int, str], list[int]] = defaultdict(list)
        for place, places in found_by.items():
            for of in places:
                of_name[of, members[place].name].append(place)
        for (of, _), places in of_name.items():
            # Where a name comes twice, in tars of which one was put behind the other, the nearest is meant.
            described[of].append(
                min(places, key=lambda place: (members[place].part != members[of].part, abs(place - of)))
            )
    matched = min(len(descriptions) - len(stray), len(described))
    examples = [
        next((members[place].name for place in places if place not in described), "") for places in (stray, audio)
    ]
    return described, _Fit(len(descriptions), len(audio), matched, *examples)


def _is_description(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.lower().endswith((".json", ".txt")) and not last.startswith(".")


def _read_descriptions(
    config: CorpusConfig, uri: str, members: Sequence[tars.Member], places: Iterable[int]
) -> dict[int, bytes | AudioError]:
    """The contents of the members at some places of a tar, but for those that are too long or no files."""
    readable = [
        place for place in sorted(places) if not members[place].fault and members[place].length <= LONGEST_TEXT_BYTES
    ]

    def read(places: Sequence[int]) -> list[bytes | AudioError]:
        return [_read_content(uri, members[place]) for place in places]

    return dict(zip(readable, read_patiently(read, readable, lambda _: uri, config.witnesses), strict=True))


def _read_content(uri: str, member: tars.Member) -> bytes | AudioError:
    try:
        return storage.read_range(uri, member.offset, member.length)
    except OSError as error:
        return AudioError(reason_of(error), str(error))


def _read_member(
    uri: str,
    id: str,
    member: tars.Member,
    descriptions: Sequence[tuple[tars.Member, bytes | AudioError | None]],
    notices: Notices,
) -> AudioFile:
    drop_reason, drop_detail = tars.reason_to_drop(member)
    try:
        known, length_from = _merged(uri, descriptions, notices)
    except AudioError as error:
        known, length_from = {}, None
        drop_reason, drop_detail = error.reason, f"its description: {error.detail}"
    language = columns.language_of(known.get("language"))
    return AudioFile(
        id=id,
        uri=tars.address(uri, member),
        language=language,
        language_source="recording" if language else None,
        speaker=columns.speaker_of(known.get("speaker")),
        split=columns.split_of(known.get("split")),
        text=str(known["text"]).strip() or None if known.get("text") is not None else None,
        duration_s=columns.duration_of(known.get("duration"), length_from),
        duration_from=length_from,
        drop_reason=drop_reason,
        drop_detail=drop_detail,
    )


def _merged(
    uri: str, descriptions: Sequence[tuple[tars.Member, bytes | AudioError | None]], notices: Notices
) -> tuple[dict[str, Any], str | None]:
    """What descriptions say, by field, and the key of the length; what an earlier one says holds.

    Raises:
        AudioError: the bytes of one could not be read.
    """
    known: dict[str, Any] = {}
    texts: list[str] = []
    length_from = None
    for member, content in descriptions:
        where = f"{member.name} of {uri}"
        if content is None:
            notices.add("unreadable_description", f"{where}: {member.fault or f'{member.length:,} bytes'}")
            continue
        if isinstance(content, AudioError):
            raise content
        if member.name.lower().endswith(".txt"):
            texts.append(decode(content).removeprefix("\ufeff").strip())
            continue
        try:
            told = parse_json(content, where)
        except CorpusError as error:
            notices.add("unreadable_description", str(error))
            continue
        chosen = columns.choose_columns([key for key, value in told.items() if value not in (None, "")], FIELDS)
        columns.notice_unused(told, chosen, FIELDS, where, notices)
        length_from = length_from or chosen.get("duration")
        known = {**{field: told[key] for field, key in chosen.items()}, **known}
    return ({"text": next(iter(texts)), **known} if texts else known), length_from
