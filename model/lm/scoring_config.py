"""What of a sequence a speech LM is asked for, when its likelihood stands for a judgement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoringConfig:
    """What counts as a sequence, and what of it is scored. Results state all of it.

    Args:
        bos: Whether the sequence begins with the model's own id for that, so that its first unit is scored too; by
            default if the model was trained with one (slamkit's).
        eos: Whether the id that ends a sequence is scored too; by default if the model was trained with one.
        repeats: Whether a unit that lasts for several frames counts as often; TWIST's models are trained without.
    """

    bos: bool | None = None
    eos: bool | None = None
    repeats: bool = False
