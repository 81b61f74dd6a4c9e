"""How a speech LM draws units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import TwistError


@dataclass(frozen=True)
class SamplingConfig:
    """How units are drawn.

    Args:
        temperature: Divisor of the log-probabilities; 0 always takes the likeliest unit.
        top_k: Draw among this many of the likeliest units; null: all. The published script leaves this to transformers,
            whose default is 50.
        top_p: Draw among the likeliest units, as few as reach this total probability; null: all.
        max_units: Most units in a sequence, including the prompt.
        max_times_prompt: The same, as a multiple of the prompt.
        seed: Seed of all draws.
    """

    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    max_units: int = 250
    max_times_prompt: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1, or null"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or null"),
            ("max_units", self.max_units >= 2, "at least 2"),
            ("max_times_prompt", 1 < self.max_times_prompt < math.inf, "above 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not holds:
                raise TwistError(f"{name} is {getattr(self, name)!r}; it must be {rule}")

    def max_length(self, num_prompt_units: int) -> int:
        """Most units that a prompt and its continuation may have together."""
        return min(self.max_units, int(self.max_times_prompt * num_prompt_units))
