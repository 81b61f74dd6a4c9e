"""The interface between a kind of model and the loop that trains it (model/training/loop.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from _typeshed import DataclassInstance
    from torch import nn

    from model.device import Device
    from model.training.rules import Precision

OnEvent = Callable[[dict[str, Any]], None]
"""Called in the main process with a dict: `event` (start, step, validation, checkpoint, stopped, or one of the
training's own), `step` and the event's figures."""


class LoopSettings(Protocol):
    """The settings that the loop reads; a training's settings class is a frozen dataclass with these and more."""

    @property
    def num_steps(self) -> int: ...
    @property
    def clip_norm(self) -> float | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def validate_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def keep_last(self) -> int: ...
    @property
    def save_in_background(self) -> bool: ...
    @property
    def log_every(self) -> int: ...
    @property
    def tensorboard(self) -> str | None: ...
    @property
    def wandb(self) -> str | None: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def device(self) -> Device: ...
    @property
    def changeable(self) -> frozenset[str]: ...
    def learning_rate(self, step: int) -> float: ...


class StepBatch(Protocol):
    """One process's share of one step's data; `index` is the step, from 0."""

    @property
    def index(self) -> int: ...


Batch = TypeVar("Batch", bound=StepBatch)
Score = TypeVar("Score", bound="DataclassInstance")


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run continues from.

    Attributes:
        step: Number of updates made before it.
        state: Content of its trainer_state.json.
        folder: Local folder with its files.
    """

    step: int
    state: dict[str, Any]
    folder: Path


class Training(ABC, Generic[Batch, Score]):
    """How to train one kind of model. Every process has an instance; each method is called in all processes together.

    Attributes:
        model: The model whose gradients are clipped.
        optimizer: The optimizer of all trained parameters.
        seen_name: Name in trainer_state.json for the amount of data seen.
    """

    seen_name: ClassVar[str]
    model: nn.Module
    optimizer: torch.optim.Optimizer

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Figures to report at the start: sizes of the model and the data."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        """The batches of steps `start` + 1 to `stop`."""

    @abstractmethod
    def amount(self, batch: Batch) -> int:
        """The amount of data in a batch, over all processes, in the unit that `seen_name` names."""

    @abstractmethod
    def backward(self, batch: Batch) -> dict[str, float]:
        """Computes a batch's gradient, over all processes, and leaves it in the parameters.

        Returns:
            The losses by name, over all processes.
        """

    @abstractmethod
    def validate(self) -> Score:
        """Measures the model on held-out data; the score is the same in all processes."""

    @abstractmethod
    def is_better(self, score: Score, best: Score | None, step: int) -> bool:
        """Whether `score`, measured at `step`, beats the best so far."""

    @abstractmethod
    def score_of(self, content: dict[str, Any]) -> Score:
        """Rebuilds a score from its `dataclasses.asdict`."""

    @abstractmethod
    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        """Figures for a line of metrics: the data seen and the speed, by the data and seconds since the last line."""

    @abstractmethod
    def state(self, step: int) -> dict[str, Any]:
        """Further state that a resumed run needs or is checked against, as JSON values."""

    @abstractmethod
    def copy_model(self) -> Callable[[Path], None]:
        """Copies the weights to save; the function returned writes the copy into a folder, in another thread."""

    def begin(self, report: Callable[[int, Score], None]) -> None:
        """Measures the untrained model of a new run and reports it as a validation; does nothing unless overridden."""

    def progress(self, num_seen: int) -> dict[str, Any]:
        """The entries of trainer_state.json's `progress` besides the step and the best score."""
        return {self.seen_name: num_seen}

    def after_update(self) -> None:
        """Called after each update of the weights; does nothing unless overridden."""

    def after_step(self, step: int) -> None:
        """Called after a step's validation and checkpoint; does nothing unless overridden."""

    def blame(self, batch: Batch) -> str:
        """Says, in the error about a non-finite loss, where the batch's samples are listed; "" by default."""
        return ""


Report = Callable[..., None]
"""report(event, step, **figures) passes an event to the main process's `OnEvent`."""
