"""Compares lengths that a corpus states with audio headers, for a few recordings of each, and times with lengths.

A length that a corpus states is taken without opening the file; one in another unit would make every hour of the corpus
wrong, and what is cut from it. So some recordings are looked into, the same ones in each run. Times at which somebody
speaks must lie within the recording.
"""

from __future__ import annotations

import hashlib
import heapq
import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipeline.audio.places import read_patiently
from pipeline.audio.read import AudioError, probe
from pipeline.corpora.source import AudioFile, CorpusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.corpora.source import CorpusConfig, Notices
    from pipeline.records import Recording

SAMPLE_SIZE = 16
# Lengths that differ by less are called the same: those of MP3 headers are no better.
LARGEST_DIFFERENCE_S = 0.5
LARGEST_DIFFERENCE = 0.05
# A unit is wrong where most lengths are off by one factor, this or more.
SMALLEST_FACTOR = 30.0
_UNITS = {
    1e3: "milliseconds",
    1e6: "microseconds",
    1e9: "nanoseconds",
    1 / 60: "minutes",
    1 / 3600: "hours",
    **dict.fromkeys((8e3, 11025.0, 12e3, 16e3, 22050.0, 24e3, 32e3, 44.1e3, 48e3), "samples"),
}


class StatedLengths:
    """A sample of a corpus' recordings with stated lengths, chosen by a hash of their ids."""

    def __init__(self, corpus: CorpusConfig) -> None:
        self._corpus = corpus
        # Of the smallest hashes, the largest comes first.
        self._chosen: list[tuple[int, int, AudioFile]] = []
        self._num_seen = 0

    def see(self, file: AudioFile) -> None:
        """Considers a file for the sample."""
        if file.duration_s is None or file.drop_reason is not None or file.complete is not None:
            return
        place = -int.from_bytes(hashlib.blake2b(file.id.encode(errors="replace"), digest_size=8).digest(), "big")
        self._num_seen += 1
        if len(self._chosen) < SAMPLE_SIZE:
            heapq.heappush(self._chosen, (place, -self._num_seen, file))
        elif place > self._chosen[0][0]:
            heapq.heapreplace(self._chosen, (place, -self._num_seen, file))

    def check(self, notices: Notices) -> None:
        """Reads the headers of the sample; notices lengths that differ.

        Raises:
            CorpusError: most lengths are off by one factor: they are not in seconds.
            ConnectionError: the place of the corpus fails.
        """
        files = [file for _, _, file in sorted(self._chosen, key=lambda chosen: -chosen[0])]
        lengths = read_patiently(_lengths_s, files, lambda file: file.uri, self._corpus.witnesses)
        known = [(file, length) for file, length in zip(files, lengths, strict=True) if isinstance(length, float)]
        pairs = [(file, file.duration_s or 0.0, length_s) for file, length_s in known]
        off = [(file, stated_s, length_s) for file, stated_s, length_s in pairs if _differs(stated_s, length_s)]
        if not off:
            return
        factor = statistics.median(stated_s / length_s for _, stated_s, length_s in off)
        alike = [pair for pair in off if abs(pair[1] / pair[2] - factor) <= LARGEST_DIFFERENCE * factor]
        file, stated_s, length_s = (alike or off)[0]
        example = f"{file.id}: the corpus says {stated_s:.6g} s, its header {length_s:.6g} s"
        if len(alike) > len(pairs) / 2 and not 1 / SMALLEST_FACTOR < factor < SMALLEST_FACTOR:
            unit = next((f": it seems to be in {unit}" for by, unit in _UNITS.items() if _is_near(factor, by)), "")
            raise CorpusError(
                f"the lengths that corpus {self._corpus.label} states{_column(file)} are not in seconds: of "
                f"{len(pairs)} recordings looked into, {len(alike)} are off by a factor of {factor:.6g}{unit} "
                f"({example}). Convert the column to seconds, or leave it out: headers are then read"
            )
        notices.add("other_length", example, len(off))


def _lengths_s(files: Sequence[AudioFile]) -> list[float | AudioError]:
    """The lengths by the headers; that one cannot be read is for later stages to tell."""
    with ThreadPoolExecutor(SAMPLE_SIZE) as threads:
        return list(threads.map(_length_s, files))


def _length_s(file: AudioFile) -> float | AudioError:
    try:
        return probe(file.uri).duration_s
    except AudioError as error:
        return error


class StatedTimes:
    """Where the recordings of a corpus have speech, as far as it says."""

    def __init__(self, corpus: CorpusConfig) -> None:
        self._corpus = corpus
        self._num_seen = self._num_beyond = self._num_far_beyond = 0
        self._example = ""

    def see(self, recording: Recording) -> None:
        """Compares the last time of a recording with its end."""
        if not recording.voice_activity:
            return
        self._num_seen += 1
        last_s = max(off_s for _, off_s in recording.voice_activity)
        if last_s <= recording.duration_s or not _differs(last_s, recording.duration_s):
            return
        self._num_beyond += 1
        self._num_far_beyond += last_s >= SMALLEST_FACTOR * recording.duration_s
        if not self._example:
            ends = f"speech until {last_s:.6g} s in {recording.duration_s:.6g} s"
            self._example = f"{recording.recording_id}: {ends}"

    def check(self, notices: Notices) -> None:
        """Notices recordings with times beyond their end.

        Raises:
            CorpusError: most have times so far beyond it that they are not in seconds.
        """
        if self._num_far_beyond > self._num_seen / 2:
            raise CorpusError(
                f"the times of speech that corpus {self._corpus.label} states are not in seconds: in "
                f"{self._num_far_beyond:,} of {self._num_seen:,} recordings they lie far beyond the end "
                f"({self._example}). Convert them to seconds"
            )
        notices.add("times_beyond_end", self._example, self._num_beyond)


def _differs(stated_s: float, length_s: float) -> bool:
    return abs(stated_s - length_s) > max(LARGEST_DIFFERENCE_S, LARGEST_DIFFERENCE * length_s)


def _is_near(factor: float, other: float) -> bool:
    return abs(factor - other) <= LARGEST_DIFFERENCE * other


def _column(file: AudioFile) -> str:
    return f" as {file.duration_from!r}" if file.duration_from else ""
