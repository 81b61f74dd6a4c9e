"""The alignments in a folder, and which of them belongs to which recording.

    **/<name>.TextGrid, .json, .csv                                 of one recording each, which has that name
    **/*.alignment.txt, *.ctm, *.jsonl, *.jsonl.gz                  of several, each named in the file

A recording is looked for by its id, then by the id's last part, then by the name of its file; suffixes of audio do not
count. An alignment that several recordings would take belongs to none of them: they only share a name.

A file of several may be about a whole corpus: what it says is read once and kept on disk, in a database that goes with
this process.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.audio.decoders import without_audio_suffix
from pipeline.corpora.alignments.ctm import read_ctm
from pipeline.corpora.alignments.labelled import AlignmentError, decode
from pipeline.corpora.alignments.librispeech_alignments import read_librispeech_alignments
from pipeline.corpora.alignments.mfa_csv import read_mfa_csv
from pipeline.corpora.alignments.textgrid import read_textgrid, tier_of
from pipeline.corpora.alignments.word_json import name_of, read_word_json
from pipeline.corpora.source import CorpusError, is_hidden
from pipeline.corpora.tables import read_lines
from pipeline.files import audio_uri, foreign_json, storage
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.corpora.alignments.labelled import Labelled

OF_ONE = (".textgrid", ".json", ".csv")
OF_SEVERAL = (".alignment.txt", ".ctm", ".jsonl", ".jsonl.gz")
# Whatever has these names is meant as an alignment; JSON and CSV may be anything.
CERTAIN = (".textgrid", ".alignment.txt", ".ctm")


class _File(NamedTuple):
    """A file that may hold alignments: its path in the place, its URI, and what changes when it does."""

    name: str
    uri: str
    version: str


class AlignmentFiles:
    """The alignments in a folder or in one file, by the recordings that they belong to.

    Every recording must be announced (`claim`) before the first is asked for.

    Args:
        place: A folder, searched to its bottom, or a file.
        tier: The tier of words, or MFA's type of words.
        run: The run that asks. Its own files, which may lie in `place`, are no alignments.

    Attributes:
        place: As given.
    """

    def __init__(self, place: str, tier: str, run: str) -> None:
        self.place = place
        self._tier = tier
        self._files = _list(place, run)
        self._claims: Counter[str] = Counter()
        self._damaged: dict[str, str] = {}
        self._repeated: list[str] = []
        # Without a name, SQLite makes a file that it removes, and has little of it in memory.
        self._of_several = sqlite3.connect("")
        self._of_several.execute("CREATE TABLE words (uri TEXT, name TEXT, labelled TEXT)")

    @property
    def fingerprint(self) -> str:
        """What changes when a file that may hold alignments is added, removed or written anew."""
        return digest(*(part for file in self._files for part in (file.name, file.version)))

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

    @functools.cached_property
    def _uris(self) -> dict[str, str]:
        """The file of each alignment, by the name that the recording should have."""
        uris: dict[str, str] = {}
        for file in sorted(self._files, key=lambda file: not _is_certain(file.name)):
            for one in self._names_in(file):
                if one in uris and _is_certain(file.name):
                    self._repeated.append(one)
                uris.setdefault(one, file.uri)
        self._of_several.execute("CREATE INDEX of ON words (uri, name)")
        return uris

    @functools.cached_property
    def _by_stem(self) -> dict[str, str | None]:
        """Names by their last part; None where several have it."""
        by_stem: dict[str, str | None] = {}
        for name in self._uris:
            stem = name.rpartition("/")[2]
            by_stem[stem] = None if stem in by_stem else name
        return by_stem

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

    def _names_in(self, file: _File) -> list[str]:
        """The names of the alignments in a file; what a file of several says of each goes into the database."""
        if file.name.lower().endswith(OF_ONE):
            return [file.name.rpartition(".")[0]]
        names: dict[str, None] = {}
        try:
            for name, words in self._read_several(file.uri):
                self._of_several.execute("INSERT INTO words VALUES (?, ?, ?)", (file.uri, name, json.dumps(words)))
                names[name] = None
        except (AlignmentError, CorpusError) as error:
            if _is_certain(file.name) or names:
                self._damaged[file.uri] = str(error)
            return []
        return list(names)

    def _find(self, id: str, uri: str) -> str | None:
        file = audio_uri.path_of(uri) or ""
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
            rows = self._of_several.execute("SELECT labelled FROM words WHERE uri = ? AND name = ?", (uri, name))
            return [(word, start_s, end_s) for (row,) in rows for word, start_s, end_s in json.loads(row)]
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

    def _read_several(self, uri: str) -> Iterable[tuple[str, list[Labelled]]]:
        if uri.lower().endswith((".jsonl", ".jsonl.gz")):
            return self._read_json_lines(uri)
        text = decode(storage.read_bytes(uri))
        labelled = read_ctm(text) if uri.lower().endswith(".ctm") else read_librispeech_alignments(text)
        return ((without_audio_suffix(name), words) for name, words in labelled.items())

    def _read_json_lines(self, uri: str) -> Iterator[tuple[str, list[Labelled]]]:
        """Words by recording, of which each may have several lines (Lhotse's supervisions); nothing of other tables."""
        is_of_words = False
        for number, text in enumerate(read_lines(uri), start=1):
            if not text.strip():
                continue
            try:
                line = foreign_json.parse(text)
                words = read_word_json(line, self._tier)
            except ValueError as error:  # AlignmentError among them
                if not is_of_words:
                    return
                self._damaged[uri] = f"line {number}: {error}"
                continue
            if words is None and not is_of_words:
                return
            if words is not None and (name := name_of(line)) is not None:
                is_of_words = True
                yield without_audio_suffix(name), words


def _list(place: str, run: str) -> list[_File]:
    suffixes = (*OF_ONE, *OF_SEVERAL)
    versions = storage.list_versions(place, suffixes)
    if not versions and place.lower().endswith(suffixes) and storage.exists(place):
        return [_File(place.rpartition("/")[2], place, storage.version(place))]
    files = (_File(name, storage.join(place, name), version) for name, version in versions.items())
    own = f"{storage.absolute(run).rstrip('/')}/"
    return [file for file in files if not is_hidden(file.name) and not storage.absolute(file.uri).startswith(own)]


def _is_certain(name: str) -> bool:
    return name.lower().endswith(CERTAIN)
