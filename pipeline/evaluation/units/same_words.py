"""Whether the same words said by two speakers are closer, in units, than other words said by the second speaker.

Closeness is the edit distance of de-duplicated units, per unit of the longer sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class SameWords:
    """How often the same words by two speakers are closer than other words by one of them.

    Attributes:
        share_closer: Share of comparisons in which the same words are closer; ties count half.
        distance_ratio: Mean distance of the same words, divided by mean distance of other words.
        num_comparisons: Number of comparisons.
    """

    share_closer: float
    distance_ratio: float
    num_comparisons: int


def same_words(spoken: Mapping[str, Mapping[str, NDArray[np.uint16]]]) -> SameWords:
    """Compares all pairs of speakers over all texts that both have said.

    The other words are the second speaker's text that is nearest in length, counted in that speaker's units.

    Args:
        spoken: De-duplicated units by text and speaker.
    """
    closer, same, other = [], [], []
    for text, by_speaker in spoken.items():
        for speaker, units in by_speaker.items():
            for second, theirs in by_speaker.items():
                if second == speaker:
                    continue
                lengths = {
                    other_text: abs(len(spoken[other_text][second]) - len(theirs))
                    for other_text in spoken
                    if other_text != text and second in spoken[other_text]
                }
                if not lengths:
                    continue
                decoy = spoken[min(lengths, key=lengths.__getitem__)][second]
                same.append(unit_distance(units, theirs))
                other.append(unit_distance(units, decoy))
                closer.append(0.5 if same[-1] == other[-1] else float(same[-1] < other[-1]))
    assert closer, "no text was said by two speakers"
    other_mean = float(np.mean(other))
    ratio = float(np.mean(same)) / other_mean if other_mean else 1.0  # all texts have the same units
    return SameWords(float(np.mean(closer)), ratio, len(closer))


def unit_distance(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> float:
    """Levenshtein distance of two sequences, divided by the length of the longer one: 0 to 1."""
    columns = np.arange(len(second) + 1)
    row = columns.copy()
    for number, unit in enumerate(first, start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (second != unit))
        # Insertions run along the row: take the cheapest of those that start to the left.
        row = np.minimum.accumulate(np.concatenate([[number], changed]) - columns) + columns
    return float(row[-1]) / max(len(first), len(second), 1)
