"""How well units and labels of the same frames agree: with phones, which units should tell, and with speakers.

Phone purity, cluster purity and phone-normalized mutual information as Hsu et al. 2021, "HuBERT", section 4.4. fairseq
adds 1e-8 within the logarithms; this does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """What each frame adds to the agreement of units and labels; means over frames are the figures.

    Attributes:
        label_is_likeliest: Whether its label is the commonest one of its unit, [F]; the mean is the purity.
        unit_is_likeliest: Whether its unit is the commonest one of its label, [F]; the mean is the cluster purity.
        information_nats: What the unit says about the label, [F]; the mean is the mutual information.
        surprise_nats: What there was to say about the label, [F]; the mean is the labels' entropy.
    """

    label_is_likeliest: NDArray[np.bool_]
    unit_is_likeliest: NDArray[np.bool_]
    information_nats: NDArray[np.float64]
    surprise_nats: NDArray[np.float64]

    @property
    def purity(self) -> float:
        """Accuracy of predicting each frame's label as the commonest one of its unit."""
        return float(self.label_is_likeliest.mean())

    @property
    def cluster_purity(self) -> float:
        """Accuracy of predicting each frame's unit as the commonest one of its label."""
        return float(self.unit_is_likeliest.mean())

    @property
    def mutual_information_nats(self) -> float:
        """Mutual information of unit and label."""
        return float(self.information_nats.mean())

    @property
    def normalized_information(self) -> float:
        """Share of the labels' entropy that knowing the units removes: PNMI, if these are phones; 0 of one label."""
        entropy = float(self.surprise_nats.mean())
        return self.mutual_information_nats / entropy if entropy > 0 else 0.0


def agreement(units: NDArray[np.integer], labels: NDArray[np.integer] | NDArray[np.str_]) -> Agreement:
    """Compares units [F] with the labels [F] of the same frames; F is at least 1."""
    assert len(units) == len(labels) > 0, f"{len(units)} units for {len(labels)} labels"
    _, unit = np.unique(units, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    joint = np.zeros((label.max() + 1, unit.max() + 1), np.int64)
    np.add.at(joint, (label, unit), 1)
    of_label, of_unit = joint.sum(axis=1), joint.sum(axis=0)
    together = joint[label, unit] * (len(units) / (of_label[label] * of_unit[unit]))
    return Agreement(
        label_is_likeliest=label == joint.argmax(axis=0)[unit],
        unit_is_likeliest=unit == joint.argmax(axis=1)[label],
        information_nats=np.log(together),
        surprise_nats=np.log(len(units) / of_label[label]),
    )
