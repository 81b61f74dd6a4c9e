"""The alignments in a folder, and which of them belongs to which recording.

    **/<name>.TextGrid, .json, .csv                                 of one recording each, which has that name
    **/*.alignment.txt, *.ctm, *.jsonl, *.jsonl.gz                  of several, each named in the file

A recording is looked for by its id, then by the id's last part, then by the name of its file; suffixes of audio do not
count. An alignment that several recordings would take belongs to none of them: they only share a name.
"""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.audio.decoders import AUDIO_SUFFIXES
from pipeline.corpora.alignments.ctm import read_ctm
from pipeline.corpora.alignments.labelled import AlignmentError, decode
from pipeline.corpora.alignments.librispeech_alignments import read_librispeech_alignments
from pipeline.corpora.alignments.mfa_csv import read_mfa_csv
from pipeline.corpora.alignments.textgrid import read_textgrid, tier_of
from pipeline.corpora.alignments.word_json import name_of, read_word_json
from pipeline.corpora.source import CorpusError, is_hidden
from pipeline.corpora.tables import read_lines
from pipeline.files import audio_uri, foreign_json, storage
from pipeline.files.audio_uri import TarMember

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.alignments.labelled import Labelled

OF_ONE = (".textgrid", ".json", ".csv")
OF_SEVERAL = (".alignment.txt", ".ctm", ".jsonl", ".jsonl.gz")
# Whatever has these names is meant as an alignment; JSON and CSV may be anything.
CERTAIN = (".textgrid", ".alignment.txt", ".ctm")
# Recordings that follow each other mostly share a file.
FILES_IN_MEMORY = 4


class AlignmentFiles:
    """The alignments in a folder or in one file, by the recordings that they belong to.

    Every recording must be announced (`claim`) before the first is asked for.

    Args:
        place: A folder, searched to its bottom, or a file.
        tier: The tier of words, or MFA's type of words.

    Attributes:
        place: As given.
    """

    def __init__(self, place: str, tier: str) -> None:
        self.place = place
        self._tier = tier
        self._claims: Counter[str] = Counter()
        self._damaged: dict[str, str] = {}
        self._repeated: list[str] = []
        self._read_several = functools.lru_cache(FILES_IN_MEMORY)(self._read_several_now)
        self._uris: dict[str, str] = {}
        for name, uri in sorted(self._list(place), key=lambda file: not _is_certain(file[0])):
            for one in self._names_in(name, uri):
                if one in self._uris and _is_certain(name):
                    self._repeated.append(one)
                self._uris.setdefault(one, uri)
        # By the last part of a name; None where several have it.
        self._by_stem: dict[str, str | None] = {}
        for name in self._uris:
            stem = name.rpartition("/")[2]
            self._by_stem[stem] = None if stem in self._by_stem else name

    def claim(self, id: str, uri: str) -> None:
        """Announces a recording, by its id in its corpus."""
        if (name := self._find(id, uri)) is not None:
            self._claims[name] += 1

    def words_of(self, id: str, uri: str) -> list[Labelled] | None:
        """What its alignment says of a recording, in the order of the file; None if it has none.

        Raises:
            AlignmentError: the alignment is damaged.
        """
        name = self._find(id, uri)
        if name is None or self._claims[name] > 1:
            return None
        try:
            return self._read(name)
        except AlignmentError as error:
            raise AlignmentError(error.reason, f"{self._uris[name]}: {error.detail}") from error

    def notices(self) -> dict[str, dict[str, Any]]:
        """What there is that no recording takes: its kind, how often, and an example."""
        stray = [name for name, uri in self._uris.items() if not self._claims[name] and _is_certain(uri)]
        shared = [name for name, count in self._claims.items() if count > 1]
        told = {
            "alignments without a recording": stray,
            "alignments that several recordings would take": shared,
            "alignments that repeat another's name": self._repeated,
            "files of alignments that cannot be read": [f"{uri}: {why}" for uri, why in self._damaged.items()],
        }
        return {what: {"count": len(names), "example": names[0]} for what, names in told.items() if names}

    def _list(self, place: str) -> Iterator[tuple[str, str]]:
        names = storage.list_files(place)
        if not names and storage.exists(place):
            yield place.rpartition("/")[2], place
        for name in names:
            if not is_hidden(name):
                yield name, storage.join(place, name)

    def _names_in(self, name: str, uri: str) -> list[str]:
        suffix = next((suffix for suffix in OF_SEVERAL if name.lower().endswith(suffix)), None)
        if suffix is None:
            return [name.rpartition(".")[0]] if name.lower().endswith(OF_ONE) else []
        try:
            return list(self._read_several(uri))
        except (AlignmentError, CorpusError) as error:
            if _is_certain(name):
                self._damaged[uri] = str(error)
            return []

    def _find(self, id: str, uri: str) -> str | None:
        inside = audio_uri.parse(uri)
        file = inside.member if isinstance(inside, TarMember) else "" if inside else uri
        for written in filter(None, (id, file.rpartition("/")[2])):
            whole = without_audio_suffix(written)
            stem = whole.rpartition("/")[2]
            # Lhotse's and some CTMs name the channel of a recording that has only one.
            for name in (whole, f"{whole}-0"):
                if name in self._uris:
                    return name
            for name in (stem, f"{stem}-0"):
                if (found := self._by_stem.get(name)) is not None:
                    return found
        return None

    def _read(self, name: str) -> list[Labelled] | None:
        uri = self._uris[name]
        if uri.lower().endswith(OF_SEVERAL):
            return self._read_several(uri)[name]
        text = decode(storage.read_bytes(uri))
        if uri.lower().endswith(".textgrid"):
            return tier_of(read_textgrid(text), self._tier)
        if uri.lower().endswith(".csv"):
            return read_mfa_csv(text, self._tier)
        try:
            content = foreign_json.parse(text)
        except ValueError:
            return None  # some other file of this name
        return read_word_json(content, self._tier)

    def _read_several_now(self, uri: str) -> dict[str, list[Labelled]]:
        if uri.lower().endswith((".jsonl", ".jsonl.gz")):
            return self._read_json_lines(uri)
        text = decode(storage.read_bytes(uri))
        labelled = read_ctm(text) if uri.lower().endswith(".ctm") else read_librispeech_alignments(text)
        return {without_audio_suffix(name): words for name, words in labelled.items()}

    def _read_json_lines(self, uri: str) -> dict[str, list[Labelled]]:
        """Words by recording, whose lines (Lhotse has one for each supervision) follow each other; {} if none are."""
        labelled: dict[str, list[Labelled]] = {}
        for number, text in enumerate(read_lines(uri), start=1):
            if not text.strip():
                continue
            try:
                line = foreign_json.parse(text)
                words = read_word_json(line, self._tier)
            except ValueError as error:  # AlignmentError among them
                if not labelled:
                    return {}
                self._damaged[uri] = f"line {number}: {error}"
                continue
            if words is None and not labelled:
                return {}  # of another kind
            if words is not None and (name := name_of(line)) is not None:
                labelled.setdefault(without_audio_suffix(name), []).extend(words)
        return labelled


def without_audio_suffix(name: str) -> str:
    """A name without the suffix of an audio file, if it has one."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in AUDIO_SUFFIXES else name


def _is_certain(name: str) -> bool:
    return name.lower().endswith(CERTAIN)
