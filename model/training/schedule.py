"""The learning rate as a function of the step alone."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["inverse_sqrt", "cosine", "linear"]


def learning_rate(
    step: int, schedule: Schedule, *, peak: float, final: float, warmup_steps: int, num_steps: int
) -> float:
    """The learning rate of update `step` (the first is 1).

    It rises linearly to `peak` over `warmup_steps`, then:
    - inverse_sqrt: falls as 1 / sqrt(step) down to `final` and stays there, whatever `num_steps` is. The paper
      (appendix A.1) gives both rates and the warm-up, but not the curve between them; with this one, 4e-4 after 100
      warm-up steps falls to 8e-5 at step 2500;
    - cosine: falls along half a cosine and reaches `final` at `num_steps`;
    - linear: falls along a straight line and reaches `final` at `num_steps` (fairseq's polynomial_decay, used to
      pretrain HuBERT).
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "inverse_sqrt":
        return max(final, peak * math.sqrt(max(warmup_steps, 1) / step))
    progress = min(1.0, (step - warmup_steps) / (num_steps - warmup_steps))
    if schedule == "linear":
        return peak + (final - peak) * progress
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
