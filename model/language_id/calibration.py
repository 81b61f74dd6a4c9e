"""Makes a classifier's scores probabilities, and says from where it is sure.

1. Platt scaling: the probability of the wanted language is sigmoid(scale * score + shift), where a score is the log
   odds that the network gives; fitted on held-out speakers, either side with half of the weight. Source: Platt 1999,
   "Probabilistic outputs for support vector machines".
2. Two thresholds. Below `other_below` a recording is in another language: at most `largest_error` of held-out windows
   in the wanted one lie there. From `wanted_from` it is in the wanted one: at most as many of the others lie there.
   Between them nothing is sure, and what is unsure is kept. One half lies between them, however well held-out windows
   are told apart: nothing is dropped that is likelier in the wanted language than not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import TwistError

LBFGS_STEPS = 100
# Added to the loss, times the squared parameters: held-out speech that is told apart perfectly has no finite scale.
PENALTY = 1e-3


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities, and from where these are sure.

    Attributes:
        scale: Of a score.
        shift: Added to it.
        other_below: Probability of the wanted language below which a recording is in another.
        wanted_from: Probability from which it is in the wanted one; at least `other_below`.
    """

    scale: float
    shift: float
    other_below: float
    wanted_from: float

    def __post_init__(self) -> None:
        if not self.scale > 0 or not 0 <= self.other_below <= self.wanted_from <= 1:
            raise TwistError(
                "a classifier's calibration needs scale above 0 and 0 <= other_below <= wanted_from <= 1, not "
                f"{self.scale}, {self.other_below} and {self.wanted_from}"
            )


def calibrate(scores: NDArray[np.float64], is_wanted: NDArray[np.bool_], largest_error: float) -> Calibration:
    """Fits a calibration.

    Args:
        scores: Log odds [N] of the wanted language, of held-out windows.
        is_wanted: [N] whether each is in it.
        largest_error: The share of windows that each threshold may get wrong.

    Raises:
        TwistError: there are no windows of one side, or scores are the lower, the likelier the wanted language is.
    """
    if is_wanted.all() or not is_wanted.any():
        raise TwistError(
            "there is no held-out speech to calibrate on, or of one side alone: give more speakers, or others to "
            "train_language.calibrate_on"
        )
    scale, shift = _platt(scores, is_wanted)
    if not scale > 0:
        raise TwistError("the classifier has learned nothing: held-out speech in the wanted language scores lowest")
    probabilities = 1 / (1 + np.exp(-(scale * scores + shift)))
    other_below = _lowest(probabilities[is_wanted], largest_error)
    wanted_from = -_lowest(-probabilities[~is_wanted], largest_error)
    return Calibration(scale, shift, min(other_below, wanted_from, 0.5), max(other_below, wanted_from, 0.5))


def _lowest(values: NDArray[np.float64], share: float) -> float:
    """The largest threshold below which at most `share` of the values lie."""
    return float(np.sort(values)[int(share * len(values))])


def _platt(scores: NDArray[np.float64], is_wanted: NDArray[np.bool_]) -> tuple[float, float]:
    inputs, targets = torch.from_numpy(scores).double(), torch.from_numpy(is_wanted).double()
    weight = torch.where(targets > 0, 0.5 / targets.sum(), 0.5 / (1 - targets).sum())
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = parameters[0] * inputs + parameters[1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, weight, reduction="sum")
        value = value + PENALTY * parameters.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    scale, shift = parameters.detach().tolist()
    return scale, shift
