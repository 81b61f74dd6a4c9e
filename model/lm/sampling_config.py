"""How a speech LM draws units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import TwistError

# Of text and speech, behind a prompt: as SpiRit-LM's examples. (Units alone have `max_units` and `max_times_prompt`.)
MAX_NEW_TOKENS = 200


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
        repetition_penalty: Divisor of the log-odds of units that a sequence has already; above 1 it repeats less.
        no_repeat_ngram: No sequence of so many units comes twice, the prompt's among them; null: any may.
        min_s: Seconds that a continuation lasts at least, at the pace of its prompt and within `max_units`.
        max_s: Seconds that a continuation lasts at most, at the pace of its prompt.
        pause_units: Units that are pauses: with the first of them after `min_s` a continuation ends.
        ranked: Whether several continuations of a prompt come likeliest first, by the model's own probability per unit,
            not in the order in which they are drawn.
    """

    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    max_units: int = 250
    max_times_prompt: float = 3.0
    seed: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None
    min_s: float | None = None
    max_s: float | None = None
    pause_units: tuple[int, ...] = ()
    ranked: bool = False

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1, or null"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or null"),
            ("max_units", self.max_units >= 2, "at least 2"),
            ("max_times_prompt", 1 < self.max_times_prompt < math.inf, "above 1"),
            ("seed", self.seed >= 0, "at least 0"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
            ("no_repeat_ngram", self.no_repeat_ngram is None or self.no_repeat_ngram >= 1, "at least 1, or null"),
            ("min_s", self.min_s is None or 0 <= self.min_s < math.inf, "at least 0, or null"),
            ("max_s", self.max_s is None or (self.min_s or 0) < self.max_s < math.inf, "above 0 and min_s, or null"),
            ("pause_units", all(unit >= 0 for unit in self.pause_units), "units"),
        ):
            if not holds:
                raise TwistError(f"{name} is {getattr(self, name)!r}; it must be {rule}")

    @property
    def needs_pace(self) -> bool:
        """Whether it takes the durations of the prompt's units to know how many may follow."""
        return self.min_s is not None or self.max_s is not None

    def max_length(self, num_prompt_units: int) -> int:
        """Most units that a prompt and its continuation may have together."""
        return min(self.max_units, int(self.max_times_prompt * num_prompt_units))
