"""Batches that are functions of the step alone: in which order clips come, and reading ahead of them."""

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
    """Gives the batch of any step."""

    def __getitem__(self, index: int) -> Batch_co: ...


def iterate(batches: BatchOfStep[Batch], start: int, stop: int, num_workers: int) -> Iterator[Batch]:
    """Batches `start` to `stop` in order, read by `num_workers` other processes (0: by this one).

    Raises:
        TwistError: audio is no longer what it was.
        ConnectionError: a store cannot be reached.
    """
    outcomes = DataLoader(_Outcomes(batches), batch_size=None, sampler=range(start, stop), num_workers=num_workers)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


class _Outcomes(Dataset["Batch | Exception"], Generic[Batch]):
    """Batches, or what is told of them to the user, whom torch would show a worker's traceback instead."""

    def __init__(self, batches: BatchOfStep[Batch]) -> None:
        self._batches = batches

    def __getitem__(self, index: int) -> Batch | Exception:
        try:
            return self._batches[index]
        except (TwistError, OSError) as error:
            return error


def endless_order(seed: int, start: int, stop: int, count: int) -> NDArray[np.int64]:
    """Places `start` to `stop` of an endless stream of `count` items: epoch after epoch, each newly shuffled."""
    epochs, places = np.divmod(np.arange(start, stop), count)
    return np.concatenate([draw_order([seed, 0, int(e)], count)[places[epochs == e]] for e in np.unique(epochs)])


def draw_order(seed: list[int], count: int) -> NDArray[np.int64]:
    """A random order of `count` items."""
    # Sorted by raw bits, the one part of numpy's random streams that is the same in every version.
    return np.argsort(np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count), kind="stable")
