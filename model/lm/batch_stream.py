"""Batches for your own trainer: rows of equal length, from a stream whose position can be saved and restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from torch.utils.data import IterableDataset, get_worker_info

from model.lm.row_packing import Rows, packed_rows, padded_rows
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model.lm.loader import MicroBatch, TrainingBatches


@dataclass(frozen=True)
class RowBatch:
    """One rank's share of one training step; the counts mean what they do in `model.lm.loader.Batch`.

    Attributes:
        index: Number of the step, from 0.
        micro_batches: One per forward pass.
        num_units: Units in the step, over all ranks.
        num_targets: Units, and EOS, predicted in the step, over all ranks.
        num_skipped: Samples of this rank that were left out because their shard is damaged.
    """

    index: int
    micro_batches: list[Rows]
    num_units: int
    num_targets: int
    num_skipped: int


class BatchStream(IterableDataset[RowBatch]):
    """Batches from `start` to `stop` in order, for torch's DataLoader or torchdata's StatefulDataLoader.

    Give either of them `batch_size=None`. A state of the stream itself, or of `TrainingBatches`, restores it with any
    number of workers. A state taken by StatefulDataLoader holds the position of each of its workers, so restoring it
    takes the same number of workers.

    Args:
        batches: Gives the batch of any step.
        start: Index of the first batch.
        stop: Index after the last batch.
        rows: padded gives each sample a row of its own, as in the paper; packed puts several samples into a row and
            marks their boundaries. A step has the same samples and targets either way.
        row_units: Length of packed rows in units; by default `batches.max_units`, the longest a sample can be.

    Raises:
        TwistError: `rows` is neither padded nor packed, or `row_units` is too short for the samples.
    """

    def __init__(
        self,
        batches: TrainingBatches,
        start: int,
        stop: int,
        *,
        rows: Literal["padded", "packed"] = "padded",
        row_units: int | None = None,
    ) -> None:
        if rows not in ("padded", "packed"):
            raise TwistError(f"rows is {rows!r}; it must be padded or packed")
        if row_units is not None and rows != "packed":
            raise TwistError("row_units is for packed rows; give rows='packed' with it")
        if row_units is not None and row_units < batches.max_units:
            raise TwistError(
                f"row_units is {row_units}, but samples have up to {batches.max_units} units; make it at least that"
            )
        self._batches = batches
        self._next = start
        self._stop = stop
        self._are_packed = rows == "packed"
        self._row_units = row_units or batches.max_units
        # The worker that the state belongs to, and the number of workers; None until iteration starts.
        self._part: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[RowBatch]:
        worker = get_worker_info()
        part = (worker.id, worker.num_workers) if worker else (0, 1)
        if self._part is None:
            # DataLoader asks its workers in turn, so worker w gives batches w, w + num_workers, ...
            self._next += part[0]
        elif self._part != part:
            raise TwistError(
                f"this state was taken in worker {self._part[0]} of {self._part[1]}; restore it with as many, or go on "
                f"from the number of batches that were taken (TrainingBatches.state_dict)"
            )
        self._part = part
        while self._next < self._stop:
            index = self._next
            self._next += part[1]
            yield self._batch(index)

    def state_dict(self) -> dict[str, Any]:
        """The stream's position in this process."""
        return {**self._batches.state_dict(self._next), "part": None if self._part == (0, 1) else self._part}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved position.

        Raises:
            TwistError: the state is of other data or another order.
        """
        self._next = self._batches.load_state_dict(state)
        part = state.get("part")
        self._part = cast("tuple[int, int]", tuple(part)) if part else None

    def _batch(self, index: int) -> RowBatch:
        batch = self._batches[index]
        rows = [self._rows(micro_batch) for micro_batch in batch.micro_batches]
        return RowBatch(batch.index, rows, batch.num_units, batch.num_targets, batch.num_skipped)

    def _rows(self, micro_batch: MicroBatch) -> Rows:
        if self._are_packed:
            return packed_rows(micro_batch, self._batches.pad_id, self._row_units)
        return padded_rows(micro_batch, self._batches.pad_id)
