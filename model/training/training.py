"""What a kind of model gives to the loop that trains it (model/training/loop.py), and what settings the loop reads."""

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

OnEvent = Callable[[dict[str, Any]], None]
"""Called in the main process with a dict: `event` (start, step, validation, checkpoint, stopped, and what a training
reports itself), `step` and the event's figures."""


class LoopSettings(Protocol):
    """What the loop reads of a training's settings, a frozen dataclass."""

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
    def device(self) -> Device: ...
    @property
    def changeable(self) -> frozenset[str]: ...
    def learning_rate(self, step: int) -> float: ...


class StepBatch(Protocol):
    """One step's share of the data for one process."""

    @property
    def index(self) -> int: ...


Batch = TypeVar("Batch", bound=StepBatch)
Score = TypeVar("Score", bound="DataclassInstance")


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run goes on from.

    Attributes:
        step: Updates made before it.
        state: Its trainer_state.json.
        folder: Its files, on this machine.
    """

    step: int
    state: dict[str, Any]
    folder: Path


class Training(ABC, Generic[Batch, Score]):
    """What is particular to one kind of model. Every process has one; methods are called in all of them together.

    Attributes:
        model: Whose gradient is clipped.
        optimizer: Over all that is trained.
        seen_name: What trainer_state.json calls the amount of data seen.
    """

    seen_name: ClassVar[str]
    model: nn.Module
    optimizer: torch.optim.Optimizer

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a person wants to know at the start: sizes of model and data."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        """The batches of steps `start` + 1 to `stop`."""

    @abstractmethod
    def amount(self, batch: Batch) -> int:
        """How much data a batch holds over all processes (`seen_name` says of what)."""

    @abstractmethod
    def backward(self, batch: Batch) -> dict[str, float]:
        """Leaves the gradient of a batch over all processes in the parameters.

        Returns:
            The losses, over all processes.
        """

    @abstractmethod
    def validate(self) -> Score:
        """How good the model is on held-out data, in all processes."""

    @abstractmethod
    def is_better(self, score: Score, best: Score | None, step: int) -> bool:
        """Whether a validation at `step` is the best so far."""

    @abstractmethod
    def score_of(self, content: dict[str, Any]) -> Score:
        """A score back from `dataclasses.asdict`."""

    @abstractmethod
    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        """Figures for a line of metrics: how much data was seen in all, or how fast what is new since the last line."""

    @abstractmethod
    def state(self, step: int) -> dict[str, Any]:
        """What else a resumed run needs or is held to, fit for JSON."""

    @abstractmethod
    def copy_model(self) -> Callable[[Path], None]:
        """Copies what is saved of the model; what it returns writes the copy into a folder, in another thread."""

    def begin(self, report: Callable[[int, Score], None]) -> None:
        """Measures what a new run starts from, and reports it as a validation; nothing unless overridden."""

    def progress(self, num_seen: int) -> dict[str, Any]:
        """What trainer_state.json says of progress beside step and best."""
        return {self.seen_name: num_seen}

    def after_update(self) -> None:
        """Follows each update of the weights; nothing unless overridden."""

    def after_step(self, step: int) -> None:
        """Follows a step's validation and checkpoint; nothing unless overridden."""

    def blame(self, batch: Batch) -> str:
        """Says, for an error message, where the samples of a batch with a non-finite loss are named, if anywhere."""
        return ""


Report = Callable[..., None]
"""report(event, step, **figures) tells the main process's `OnEvent`."""
