"""Validation of the settings that all trainings have: optimizer, learning rate, schedule of validation and checkpoints.

Each training has its own settings class, without a common base, so that each command's help shows all its settings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from model.device import Device
from model.training.schedule import Schedule, learning_rate
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Collection

Precision = Literal["float32", "bfloat16"]


class TrainingSettings(Protocol):
    """Settings of the learning rate and the optimizer, which every training has."""

    @property
    def num_steps(self) -> int: ...
    @property
    def peak_lr(self) -> float: ...
    @property
    def final_lr(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def clip_norm(self) -> float | None: ...


COUNTS = ("batch_size", "num_steps", "validate_every", "checkpoint_every", "keep_last", "log_every")
AMOUNTS = ("warmup_steps", "num_workers", "seed", "weight_decay")
# What a resumed run of any training may change.
CHANGEABLE = frozenset(
    {
        "validate_every",
        "checkpoint_every",
        "keep_last",
        "save_in_background",
        "log_every",
        "tensorboard",
        "wandb",
        "num_workers",
        "device",
    }
)
CHOICES = (("schedule", Schedule), ("precision", Precision), ("device", Device))


class Rules:
    """Checks the settings of one section of a recipe.

    Args:
        section: Name of the section, for messages.
        settings: The section's settings.
    """

    def __init__(self, section: str, settings: TrainingSettings) -> None:
        self._section = section
        self._settings = settings

    def require(self, name: str, holds: bool, rule: str) -> None:
        """Raises TwistError with the setting's name, value and rule unless `holds`."""
        if not holds:
            raise TwistError(f"{self._section}.{name} is {getattr(self._settings, name)!r}; it must be {rule}")

    def at_least_one(self, *names: str) -> None:
        """Requires these settings to be at least 1."""
        for name in names:
            self.require(name, getattr(self._settings, name) >= 1, "at least 1")

    def at_least_zero(self, *names: str) -> None:
        """Requires these settings to be finite and at least 0."""
        for name in names:
            self.require(name, 0 <= getattr(self._settings, name) < math.inf, "at least 0")

    def above_zero(self, *names: str) -> None:
        """Requires these settings to be finite and above 0."""
        for name in names:
            self.require(name, 0 < getattr(self._settings, name) < math.inf, "above 0")

    def common(self) -> None:
        """Checks the settings that every training has."""
        settings = self._settings
        self.at_least_one(*COUNTS)
        self.at_least_zero(*AMOUNTS)
        self.above_zero("peak_lr")
        self.require("final_lr", 0 <= settings.final_lr <= settings.peak_lr, "between 0 and peak_lr")
        self.require("betas", all(0 <= beta < 1 for beta in settings.betas), "two numbers from 0 to below 1")
        self.require("clip_norm", settings.clip_norm is None or settings.clip_norm > 0, "above 0, or null")
        for name, values in CHOICES:
            self.require(name, getattr(settings, name) in get_args(values), " or ".join(get_args(values)))
        if settings.schedule != "inverse_sqrt":
            self.require("warmup_steps", settings.warmup_steps < settings.num_steps, "below num_steps")


def rate_of_step(settings: TrainingSettings, step: int) -> float:
    """The learning rate of update `step`; the first is 1."""
    return learning_rate(
        step,
        settings.schedule,
        peak=settings.peak_lr,
        final=settings.final_lr,
        warmup_steps=settings.warmup_steps,
        num_steps=settings.num_steps,
    )


def may_change(settings: TrainingSettings, own: Collection[str] = ()) -> frozenset[str]:
    """The settings that a resumed run may change.

    Those are CHANGEABLE, `own`, and num_steps if the schedule does not depend on it.
    """
    return CHANGEABLE.union(own, {"num_steps"} if settings.schedule == "inverse_sqrt" else ())
