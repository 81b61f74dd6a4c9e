"""Batches that depend on the step alone: the order of clips, and reading batches ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Batch_co = TypeVar("Batch_co", covariant=True)
Batch = TypeVar("Batch")


class BatchOfStep(Protocol[Batch_co]):
    """Indexed by step from 0, gives that step's batch."""

    def __getitem__(self, index: int) -> Batch_co: ...


def iterate(batches: BatchOfStep[Batch], start: int, stop: int, num_workers: int) -> Iterator[Batch]:
    """Batches `start` to `stop` (exclusive) in order, read by `num_workers` other processes (0: by this one).

    Raises:
        TwistError: data has changed or is damaged.
        OSError: data cannot be read; ConnectionError if its store cannot be reached.
    """
    outcomes = DataLoader(_Outcomes(batches), batch_size=None, sampler=range(start, stop), num_workers=num_workers)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


class _Outcomes(Dataset["Batch | Exception"], Generic[Batch]):
    """Batches, or the errors that making them raised, which DataLoader would wrap in a worker's traceback."""

    def __init__(self, batches: BatchOfStep[Batch]) -> None:
        self._batches = batches

    def __getitem__(self, index: int) -> Batch | Exception:
        try:
            return self._batches[index]
        except (TwistError, OSError) as error:
            return error


def require_even_parts(setting: str, batch_size: int, world_size: int, num_micro_batches: int = 1) -> None:
    """Checks that a step's batch parts evenly among processes, and each part among its forward passes.

    Args:
        setting: The setting that gives the batch size, for the message.
        batch_size: Items of a step in all processes.
        world_size: Number of processes.
        num_micro_batches: Forward passes of each process in a step: the setting `gradient_accumulation`.

    Raises:
        TwistError: it does not.
    """
    multiple = world_size * num_micro_batches
    if batch_size % multiple:
        passes = f" with gradient_accumulation {num_micro_batches}" if num_micro_batches > 1 else ""
        raise TwistError(
            f"{setting} {batch_size} cannot be parted evenly among {world_size} processes{passes}; "
            f"make it a multiple of {multiple}"
        )


def endless_order(seed: int, start: int, stop: int, count: int) -> NDArray[np.int64]:
    """Items `start` to `stop` (exclusive) of an endless stream over `count` items, reshuffled each epoch."""
    epochs, places = np.divmod(np.arange(start, stop), count)
    return np.concatenate([draw_order([seed, 0, int(e)], count)[places[epochs == e]] for e in np.unique(epochs)])


def draw_order(seed: list[int], count: int) -> NDArray[np.int64]:
    """A random permutation of `count` items."""
    # Of numpy's random streams only the raw bits are the same in every version.
    return np.argsort(np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count), kind="stable")
