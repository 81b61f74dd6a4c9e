"""Which words lie in which segment of a recording, and whether their times can be true.

Nothing is moved into place: a word whose time cannot be true costs the segments that it may lie in.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.audio.read import END_TOLERANCE_S
from pipeline.corpora.alignments.labelled import SILENCES, UNKNOWN_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.corpora.alignments.labelled import Labelled

# No word takes longer; what does has a pause or other speech in it.
LONGEST_WORD_S = 4.0
# Aligners count frames of 10 or 20 ms, so that a word may reach over the edge of its segment by one.
EDGE_TOLERANCE_S = 0.02
# Neighbours whose times were rounded may overlap by so much.
OVERLAP_TOLERANCE_S = 0.002


@dataclass(frozen=True)
class Unusable:
    """Why a segment gets no words; `reason` is a word for counts."""

    reason: str
    detail: str


class RecordingWords:
    """The words of a recording and when they are said.

    Args:
        labelled: In the order of the text, in seconds from the recording's start; pauses among them are left out.
        duration_s: The length of the recording.
    """

    def __init__(self, labelled: Sequence[Labelled], duration_s: float) -> None:
        self._words = without_silences(labelled)
        self._starts_s, self._ends_s = (np.array([word[place] for word in self._words], float) for place in (1, 2))
        last_s = float(np.nanmax(self._ends_s, initial=0.0))
        self._misfit = None
        if last_s > duration_s + END_TOLERANCE_S:
            detail = f"the alignment ends at {last_s:.2f} s, the recording at {duration_s:.2f} s"
            self._misfit = Unusable("misaligned", detail)
        self._faults = self._find_faults()
        # When the words with a fault may be said, [N] each.
        self._from_s, self._to_s = self._surroundings(duration_s)

    @property
    def texts(self) -> list[str]:
        """The words alone."""
        return [word for word, _, _ in self._words]

    def within(self, start_s: float, end_s: float) -> list[Labelled] | Unusable:
        """The words of a segment in seconds from its start: rising, without overlap, within it."""
        if self._misfit is not None:
            return self._misfit
        near = np.flatnonzero((self._from_s <= end_s) & (self._to_s >= start_s))
        if len(near):
            return Unusable("bad_times", list(self._faults.values())[near[0]])
        middles_s = (self._starts_s + self._ends_s) / 2
        is_within = (middles_s >= start_s) & (middles_s < end_s)
        reaches_in = (self._starts_s < end_s - EDGE_TOLERANCE_S) & (self._ends_s > start_s + EDGE_TOLERANCE_S)
        reaches_out = (self._starts_s < start_s - EDGE_TOLERANCE_S) | (self._ends_s > end_s + EDGE_TOLERANCE_S)
        if cut := np.flatnonzero((is_within | reaches_in) & reaches_out).tolist():
            return Unusable("word_cut", f"the segment's edge cuts {self._described(cut[0])}")
        places = np.flatnonzero(is_within)
        if not len(places):
            return Unusable("no_words", "no word of the alignment lies in it")
        words: list[Labelled] = []
        before_s = 0.0
        for place in places.tolist():
            word, word_start_s, word_end_s = self._words[place]
            if word.lower() in UNKNOWN_WORDS:
                return Unusable("unknown_word", f"the aligner did not know a word: {self._described(place)}")
            from_s = max(before_s, round(word_start_s - start_s, 6))
            to_s = min(round(word_end_s - start_s, 6), end_s - start_s)
            words.append((word, from_s, to_s))
            before_s = to_s
        return words

    def _find_faults(self) -> dict[int, str]:
        """What is wrong with words, by their places."""
        faults: dict[int, str] = {}
        for place, (word, start_s, end_s) in enumerate(self._words):
            if not (math.isfinite(start_s) and math.isfinite(end_s)):
                faults[place] = f"{word!r} has no time"
            elif start_s < 0:
                faults[place] = f"{self._described(place)} begins before the recording"
            elif end_s - start_s <= OVERLAP_TOLERANCE_S:
                faults[place] = f"{self._described(place)} has no length"
            elif end_s - start_s > LONGEST_WORD_S:
                faults[place] = f"{self._described(place)} is longer than {LONGEST_WORD_S:g} s"
        timed = [place for place in range(len(self._words)) if place not in faults]
        for before, place in itertools.pairwise(timed):
            if self._ends_s[before] > self._starts_s[place] + OVERLAP_TOLERANCE_S:
                fault = f"{self._described(before)} overlaps {self._described(place)}"
                faults.setdefault(before, fault)
                faults[place] = fault
        return faults

    def _surroundings(self, duration_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """From when to when each word with a fault may be said: as stated, else anywhere between sound neighbours."""
        sound = np.array([place for place in range(len(self._words)) if place not in self._faults], int)
        ends_before_s = np.concatenate([[0.0], self._ends_s[sound]])
        starts_after_s = np.concatenate([self._starts_s[sound], [duration_s]])
        from_s, to_s = [], []
        for place, num_before in zip(self._faults, np.searchsorted(sound, list(self._faults)).tolist(), strict=True):
            stated = [time for time in self._words[place][1:] if math.isfinite(time)]
            is_whole = len(stated) == 2
            from_s.append(min(stated if is_whole else [ends_before_s[num_before], *stated]))
            to_s.append(max(stated if is_whole else [starts_after_s[num_before], *stated]))
        return np.array(from_s), np.array(to_s)

    def _described(self, place: int) -> str:
        word, start_s, end_s = self._words[place]
        return f"{word!r} ({start_s:.3f} to {end_s:.3f} s)"


def without_silences(labelled: Sequence[Labelled]) -> list[Labelled]:
    """The words alone, without blanks around them."""
    words = [(" ".join(label.split()), start_s, end_s) for label, start_s, end_s in labelled]
    return [word for word in words if word[0].lower() not in SILENCES]


def spelled_as(text: str, words: Sequence[Labelled]) -> list[Labelled] | None:
    """Gives words the spelling, case and punctuation that a text has them in; None if it has other words."""
    written = text.split()
    letters_of = [_letters(one) for one in written]
    spelled: list[Labelled] = []
    taken = 0
    for word, start_s, end_s in words:
        letters = _letters(word)
        first, found = taken, ""
        while taken < len(written) and (taken == first or len(found) < len(letters)):
            found += letters_of[taken]
            taken += 1
        # What is written without a letter, such as a dash, belongs to the word before it.
        while taken < len(written) and not letters_of[taken]:
            taken += 1
        if found != letters or taken == first:  # or nothing is left
            return None
        spelled.append((" ".join(written[first:taken]), start_s, end_s))
    return spelled if taken == len(written) else None


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
