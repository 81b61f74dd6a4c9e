"""How much units say about what is said, and how little about who says it.

1. Frame by frame, against phones: phone purity, cluster purity and phone-normalized mutual information, as Hsu et al.
   2021, "HuBERT", section 4.4 ("PNMI").
2. Utterance by utterance: whether the same words said by two speakers are closer than other words said by the second
   speaker. Closeness is the edit distance of de-duplicated units, per unit of the longer sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class PhoneAgreement:
    """How well units and phones of the same frames agree.

    Attributes:
        phone_purity: Accuracy of predicting each frame's phone as the commonest one of its unit.
        cluster_purity: Accuracy of predicting each frame's unit as the commonest one of its phone.
        pnmi: Share of the phones' entropy that knowing the units removes.
    """

    phone_purity: float
    cluster_purity: float
    pnmi: float


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


def phone_agreement(units: NDArray[np.integer], phones: NDArray[np.integer]) -> PhoneAgreement:
    """Measures units [F] against the phones [F] of the same frames, both numbered from 0."""
    assert len(units) == len(phones) > 0, f"{len(units)} units for {len(phones)} phones"
    joint = np.zeros((int(phones.max()) + 1, int(units.max()) + 1))
    np.add.at(joint, (phones, units), 1 / len(units))
    by_phone, by_unit = joint.sum(axis=1), joint.sum(axis=0)
    occurs = joint > 0
    information = float((joint[occurs] * np.log(joint[occurs] / np.outer(by_phone, by_unit)[occurs])).sum())
    entropy = -float((by_phone[by_phone > 0] * np.log(by_phone[by_phone > 0])).sum())
    return PhoneAgreement(
        phone_purity=float(joint.max(axis=0).sum()),
        cluster_purity=float(joint.max(axis=1).sum()),
        pnmi=information / entropy if entropy else 0.0,
    )


def labels_at(times_s: NDArray[np.float64], starts_s: Sequence[float], labels: Sequence[int]) -> NDArray[np.int64]:
    """The label at each time: the last one that began by then; before the first one began, the first one."""
    indices = np.searchsorted(np.asarray(starts_s), times_s, side="right") - 1
    return np.asarray(labels, np.int64)[np.maximum(indices, 0)]


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
