"""The phones of a run's recordings, from alignments in files.

An alignment in a folder for all corpora belongs to a recording if its name is the recording's path, without the suffix,
below that folder: `twist make-speech voices` writes them so. In a folder for one corpus, it belongs to the recording of
that corpus whose path, or path in its tar, ends with its name: most aligners write them so, in a tree of the same
shape. A row of a Parquet file has no path, and so no alignment.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import TwistError
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.units.alignments import SILENCE, iterate_alignments
from pipeline.files import audio_uri, storage
from pipeline.records import NO_PHONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.units.alignments import Interval

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Spoken:
    """The phones of one recording, in order: the number of each [n], and when it begins and ends, in seconds [n]."""

    numbers: NDArray[np.int32]
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]


class ClipPhones:
    """The phones of recordings.

    Args:
        of_recording: By the recording's URI.
        names: The phones' names, by number; silence is among them.
    """

    def __init__(self, of_recording: Mapping[str, Spoken], names: Sequence[str]) -> None:
        self.of_recording = of_recording
        self.names = tuple(names)

    def at(self, uri: str, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """The phone at each time since the recording's start: its number; NO_PHONE where there is no alignment."""
        spoken = self.of_recording.get(uri)
        if spoken is None:
            return np.full(len(times_s), NO_PHONE)
        # Between and beside its phones, an alignment has silence.
        found = np.full(len(times_s), self.names.index(SILENCE))
        places = np.searchsorted(spoken.starts_s, times_s, side="right") - 1
        has_begun = np.flatnonzero(places >= 0)
        is_said = has_begun[times_s[has_begun] < spoken.ends_s[places[has_begun]]]
        found[is_said] = spoken.numbers[places[is_said]]
        return found

    def fingerprint(self) -> str:
        """A hash of who says what and when."""
        total = hashlib.sha256()
        separator = "{"
        for uri, spoken in sorted(self.of_recording.items()):
            columns = (spoken.numbers.tolist(), spoken.starts_s.tolist(), spoken.ends_s.tolist())
            rows = [
                {"end_s": end_s, "label": self.names[number], "start_s": start_s}
                for number, start_s, end_s in zip(*columns, strict=True)
            ]
            total.update(f"{separator}{json.dumps(uri)}: {json.dumps(rows)}".encode())
            separator = ", "
        total.update(b"}" if self.of_recording else b"{}")
        return total.hexdigest()


def read_clip_phones(corpus_of_uri: Mapping[str, str], places: str | Mapping[str, str]) -> ClipPhones:
    """The phones that alignments give for recordings.

    Args:
        corpus_of_uri: The corpus of each recording.
        places: A folder of alignments for all, or one for each corpus by its name.

    Raises:
        TwistError: no alignment can be read, or none is of a recording; a corpus is unknown; an alignment may be of two
            recordings.
    """
    reader = _Reader()
    if isinstance(places, str):
        reader.take(places, _paths_below(corpus_of_uri, places), by_end=False)
        if not reader.of_recording:
            raise TwistError(
                f"spin.phones {places} has alignments, but none of a recording of this run: name the folder that lies "
                f"as the recordings do, with the same paths below it; or name the corpus that they are of, as in "
                f"phones: {{CORPUS: {places}}}"
            )
        return reader.phones()
    for corpus, place in places.items():
        uris = [uri for uri, name in corpus_of_uri.items() if name == corpus]
        if not uris:
            raise TwistError(
                f"spin.phones names the corpus {corpus}, of which the run has no segment; it has "
                f"{', '.join(sorted(set(corpus_of_uri.values())))}"
            )
        before = len(reader.of_recording)
        num_alignments, example = reader.take(place, {uri: _paths(uri) for uri in uris}, by_end=True)
        if len(reader.of_recording) == before:
            raise TwistError(
                f"spin.phones {place} has {num_alignments:,} alignments, such as {example}, but none of a recording of "
                f"its corpus, such as {uris[0]}"
            )
    return reader.phones()


class _Reader:
    """Gathers the phones of recordings from one folder after another."""

    def __init__(self) -> None:
        self.of_recording: dict[str, Spoken] = {}
        self._number_of = {SILENCE: 0}

    def take(self, place: str, paths_of: Mapping[str, Sequence[str]], *, by_end: bool) -> tuple[int, str]:
        """Takes the alignments in a folder that are of recordings.

        Args:
            place: The folder.
            paths_of: By recording, the paths that its alignment may have, the one to be preferred first.
            by_end: Whether an alignment may have the end of a path too, the longer the better.

        Returns:
            How many alignments can be read there, and the name of one.

        Raises:
            TwistError: none can be read, or, of ends, one may be of two recordings.
        """
        files = {path.rpartition("/")[2] for paths in paths_of.values() for path in paths}
        by_name: dict[str, Spoken] = {}
        num_read, example, left_out = 0, "", []
        for name, found in iterate_alignments(place):
            if isinstance(found, LeftOut):
                left_out.append(found)
                continue
            num_read, example = num_read + 1, example or name
            if name.rpartition("/")[2] in files:
                by_name[name] = self._spoken(found)
        if left_out:
            first = left_out[0]
            told = f"alignments of spin.phones {place} cannot be used, such as {first.item_id}: {first.reason}"
            if not example:
                raise TwistError(f"all {len(left_out):,} {told} ({first.detail})")
            logger.warning("%s %s (%s)", f"{len(left_out):,}", told, first.detail)
        uri_of: dict[str, str] = {}
        for uri, paths in paths_of.items():
            names = (name for path in paths for name in (_ends(path) if by_end else [path]))
            taken = next((name for name in names if name in by_name), None)
            if taken is None:
                continue
            if by_end and taken in uri_of:
                raise TwistError(f"spin.phones: the alignment {taken} in {place} may be of {uri_of[taken]} or of {uri}")
            uri_of[taken] = uri
            self.of_recording[uri] = by_name[taken]
        return num_read, example

    def phones(self) -> ClipPhones:
        """All of them; names are those that recordings have, by the alphabet."""
        name_of = list(self._number_of)
        used = {0}.union(*(np.unique(spoken.numbers).tolist() for spoken in self.of_recording.values()))
        names = sorted(name_of[number] for number in used)
        new_number = np.full(len(name_of), NO_PHONE, np.int32)
        for number in used:
            new_number[number] = names.index(name_of[number])
        return ClipPhones(
            {
                uri: Spoken(new_number[spoken.numbers], spoken.starts_s, spoken.ends_s)
                for uri, spoken in self.of_recording.items()
            },
            names,
        )

    def _spoken(self, intervals: Sequence[Interval]) -> Spoken:
        numbers = [self._number_of.setdefault(interval.label, len(self._number_of)) for interval in intervals]
        return Spoken(
            np.array(numbers, np.int32),
            np.array([interval.start_s for interval in intervals], np.float64),
            np.array([interval.end_s for interval in intervals], np.float64),
        )


def _paths_below(uris: Iterable[str], place: str) -> dict[str, list[str]]:
    """By recording below a folder, its path there without the suffix."""
    base = (place if storage.is_s3(place) else str(Path(place).resolve())).rstrip("/") + "/"
    found = {}
    for uri in uris:
        below = [path.removeprefix(base) for path in _paths(uri) if path.startswith(base)]
        if below:
            found[uri] = below
    return found


def _ends(path: str) -> Iterator[str]:
    """Every end of a path, the longest first."""
    parts = path.split("/")
    return ("/".join(parts[first:]) for first in range(len(parts)))


def _paths(uri: str) -> list[str]:
    """Where a recording lies, without the suffix: its path, or that in its tar; of a link also where it leads."""
    path = audio_uri.path_of(uri)
    if path is None:
        return []
    found = [path]
    if path == uri and not storage.is_s3(uri):
        # In a store by contents, names of files say nothing: the link's own come first.
        found = list(dict.fromkeys([str(Path(uri).parent.resolve() / Path(uri).name), str(Path(uri).resolve())]))
    return [each.rpartition(".")[0] for each in found]
