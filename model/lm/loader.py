"""Reads units from shards in batches whose order depends on the seed and the step alone.

1. `UnitSamples` indexes one split from the shards' manifest: a sample longer than `max_units` counts as several
   consecutive pieces. Units are read from the tars by byte offset (`shard_reader.py`); no tar is parsed.
2. All samples of the first epoch, in an order drawn from (seed, epoch) (`epoch_order.py`), then all of the next epoch,
   and so on, form one endless stream. Batch `i` is the stream from `i * batch_size` to `(i + 1) * batch_size`: nothing
   is left over at the end of an epoch, and any step is found at once, without replay.
3. Rank `r` of `W` takes the r-th of W equal slices of each batch. The samples of a step do not depend on `W`, on the
   number of loader processes, or on whether the run was interrupted.
4. The samples of a forward pass are concatenated, without padding. Other trainers get rows (`batch_stream.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from model.lm.epoch_order import EpochOrder
from model.lm.loader_config import LoaderConfig
from model.lm.sample_index import block_starts, read_index
from model.lm.shard_reader import ShardReader
from model.training import step_batches
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.lm.vocab import Vocabulary
    from pipeline.shards import Dataset


class UnitSamples:
    """The samples of one split, each of 2 to `max_units` units.

    Longer samples are cut into consecutive pieces; a piece of one unit, which has nothing to predict, is left out and
    counted in `num_units_left_out`.

    Args:
        dataset: The shards.
        split: Which of their splits.
        max_units: The longest sample.
        data: Which share of the samples, whether to check them, and what to do with damaged ones.

    Raises:
        TwistError: the split has no sample of two units.
    """

    def __init__(self, dataset: Dataset, split: str, max_units: int, data: LoaderConfig | None = None) -> None:
        data = data or LoaderConfig()
        index = read_index(dataset, split, data.share)
        pieces = _cut(index.num_units, max_units)
        if not len(pieces.owner):
            mend = (
                "pack again with a larger pack.split.validation, or with more speakers"
                if split == "validation"
                else "pack again with more audio, or with another pack.split"
            )
            raise TwistError(f"{dataset.uri} has no sample of two or more units in its {split} split; {mend}")
        self.dataset = dataset
        self.split = split
        self.data = data
        self.max_units = max_units
        self.num_units = pieces.num_units
        self.num_units_left_out = pieces.num_units_left_out
        self._rows = index.rows
        self._corpora = index.corpora
        self._corpus = index.corpus
        self._owner = pieces.owner
        self._piece = pieces.piece
        starts = block_starts(index.shard)
        self.blocks = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))[self._owner]
        self._first_rows = starts[:-1]
        self._reader = ShardReader(dataset, index, starts, data)
        self.held_to = self._reader.held_to

    def __len__(self) -> int:
        return len(self.num_units)

    def __getitem__(self, index: int) -> NDArray[np.uint16]:
        """The units of one sample.

        Raises:
            TwistError: it is damaged, or its shard is gone.
        """
        found = self.read([index])[0]
        if found is None:
            raise TwistError(f"sample {self.key(index)} of {self.dataset.uri} is damaged, or its shard is")
        return found

    def read(
        self, indices: Sequence[int] | NDArray[np.int64], below: int | None = None
    ) -> list[NDArray[np.uint16] | None]:
        """The units of some samples; None for those that are damaged and to be skipped.

        Args:
            indices: Which samples.
            below: A shard in which a unit is this or more counts as damaged; not looked at unless given.

        Raises:
            TwistError: a sample is damaged, or a shard is gone.
        """
        numbers = self.blocks[indices]
        rows = self._owner[indices] - self._first_rows[numbers]
        found: list[NDArray[np.uint16] | None] = []
        for number, row, start, length in zip(
            numbers.tolist(),
            rows.tolist(),
            (self._piece[indices].astype(np.int64) * self.max_units).tolist(),
            self.num_units[indices].tolist(),
            strict=True,
        ):
            block = self._reader.read(number)
            if block is None or row in block.damaged:
                found.append(None)
                continue
            first = block.starts[row] + start
            units = block.units[first : first + length]
            if below is not None and units.max() >= below:
                self._reader.refuse_unit(number, int(units.max()))
                found.append(None)
            else:
                found.append(units)
        return found

    def prefetch(self, blocks: NDArray[np.int32]) -> None:
        """Lets blocks of samples be read ahead."""
        self._reader.prefetch(blocks.tolist())

    def key(self, index: int) -> str:
        """The sample's key in the shards; the pieces of a long one share it."""
        return self.dataset.value("key", int(self._rows[self._owner[index]]))

    def manifest_rows(self) -> NDArray[np.int32]:
        """The row of the manifest that each sample is, or is a piece of, ascending [num_samples]."""
        return self._rows[self._owner]

    def told_unit_counts(self) -> NDArray[np.int64] | None:
        """How often each unit occurs [codebook_size], where dataset.json says so of exactly these samples."""
        told = self.dataset.info.get("unit_counts", {}).get(self.split)
        is_all = self.data.share == 1 and not self.num_units_left_out
        return np.array(told, np.int64) if told is not None and is_all else None

    def corpora(self) -> NDArray[np.str_]:
        """The corpus of each sample, [num_samples]."""
        names, codes = self.corpus_codes()
        corpora: NDArray[np.str_] = np.array(names)[codes]
        return corpora

    def corpus_codes(self) -> tuple[list[str], NDArray[np.int16]]:
        """The corpora's names, and the number of each sample's among them [num_samples]."""
        return self._corpora, self._corpus[self._owner]


@dataclass(frozen=True)
class MicroBatch:
    """The concatenated samples of one forward pass.

    Attributes:
        token_ids: [N] int64.
        lengths: Number of tokens of each sample, N in all; empty if all samples are in damaged shards.
    """

    token_ids: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """One rank's share of one training step.

    Attributes:
        index: Number of the step, from 0.
        micro_batches: One per forward pass.
        num_units: Units in the step, over all ranks.
        num_targets: Units predicted in the step, over all ranks.
        num_skipped: Samples of this rank that were left out because they are damaged. They still count in
            num_units and num_targets, which every rank knows without reading the samples.
    """

    index: int
    micro_batches: list[MicroBatch]
    num_units: int
    num_targets: int
    num_skipped: int = 0


class TrainingBatches:
    """Gives one rank its share of any step's batch.

    Args:
        samples: What to train on; `samples.data` has the weights of the corpora.
        vocabulary: Turns units into ids.
        batch_size: Samples per step, over all ranks.
        num_micro_batches: Forward passes into which each rank divides its slice.
        seed: Determines the order of samples.
        rank: The slice of each batch that this process gets.
        world_size: Number of slices.

    Raises:
        TwistError: the batch cannot be divided evenly, or the weights name unknown corpora or leave no sample.
    """

    def __init__(
        self,
        samples: UnitSamples,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        num_micro_batches: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % (world_size * num_micro_batches):
            raise TwistError(
                f"batch_size {batch_size} cannot be parted evenly among {world_size} processes with "
                f"gradient_accumulation {num_micro_batches}; make it a multiple of {world_size * num_micro_batches}"
            )
        self._samples = samples
        self._vocabulary = vocabulary
        self._batch_size = batch_size
        self._num_micro_batches = num_micro_batches
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._order = EpochOrder(samples.blocks, seed, _weights(samples))
        self._group_start = -1

    def __getitem__(self, index: int) -> Batch:
        indices = self.sample_indices(index)
        mine = indices.reshape(self._world_size, self._num_micro_batches, -1)[self._rank]
        self._read_ahead(index)
        micro_batches = list(map(self._micro_batch, mine))
        num_units = int(self._samples.num_units[indices].sum(dtype=np.int64))
        return Batch(
            index,
            micro_batches,
            num_units=num_units,
            num_targets=num_units - len(indices),
            num_skipped=mine.size - sum(len(micro_batch.lengths) for micro_batch in micro_batches),
        )

    @property
    def max_units(self) -> int:
        """Length of the longest possible sample, in units."""
        return self._samples.max_units

    @property
    def pad_id(self) -> int:
        """The id that fills rows up to a common length."""
        return self._vocabulary.pad_id

    def sample_indices(self, index: int) -> NDArray[np.int64]:
        """The samples of batch `index` over all ranks, [batch_size]."""
        return self._order.samples(index * self._batch_size, (index + 1) * self._batch_size)

    def keys(self, index: int) -> list[str]:
        """Keys of the samples of batch `index` over all ranks."""
        return [self._samples.key(int(i)) for i in self.sample_indices(index)]

    def iterate(self, start: int, stop: int, num_workers: int) -> Iterator[Batch]:
        """Batches `start` to `stop` (exclusive) in order, read by `num_workers` other processes (0: by this one).

        Raises:
            TwistError: a shard is gone or damaged.
        """
        return step_batches.iterate(self, start, stop, num_workers)

    def state_dict(self, num_batches: int) -> dict[str, Any]:
        """The stream's position after `num_batches` batches, for a checkpoint."""
        data = self._samples.data
        return {
            "seed": self._seed,
            "num_batches": num_batches,
            "dataset_fingerprint": self._samples.dataset.fingerprint,
            "order": {
                "batch_size": self._batch_size,
                "num_samples": len(self._samples),
                "share": data.share,
                "corpus_weights": dict(sorted(data.corpus_weights.items())),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """The index of the batch that a resumed run starts with.

        Raises:
            TwistError: the state is of other data or another order.
        """
        here = self.state_dict(state["num_batches"])
        meanings = {"dataset_fingerprint": "shards", "seed": "seed", "order": "samples in a step or an epoch"}
        for name, meaning in meanings.items():
            if state.get(name) != here[name]:
                raise TwistError(
                    f"the checkpoint was trained with other {meaning} ({state.get(name)}) than "
                    f"{self._samples.dataset.uri} with these settings ({here[name]}); go on with the same, or train "
                    f"into another folder"
                )
        return int(state["num_batches"])

    def _micro_batch(self, indices: NDArray[np.int64]) -> MicroBatch:
        """The samples with these indices, without those that cannot be read."""
        try:
            return collate(self._samples.read(indices), self._vocabulary)
        except TwistError:
            # Some unit is out of range: find its shard.
            return collate(self._samples.read(indices, below=self._vocabulary.codebook_size), self._vocabulary)

    def _read_ahead(self, index: int) -> None:
        """At the start of each group of blocks, prefetches this rank's blocks of it and of the next group."""
        start, group = self._order.group_at(index * self._batch_size)
        if start == self._group_start:
            return
        self._group_start = start
        next_start = start + len(group)
        for first, samples in ((start, group), (next_start, self._order.group_at(next_start)[1])):
            slots = (first + np.arange(len(samples))) % self._batch_size
            is_mine = slots * self._world_size // self._batch_size == self._rank
            self._samples.prefetch(np.unique(self._samples.blocks[samples[is_mine]]))


def collate(samples: Sequence[NDArray[np.uint16] | None], vocabulary: Vocabulary) -> MicroBatch:
    """Concatenates samples and turns them into ids; leaves out None, a sample that could not be read.

    Raises:
        TwistError: a unit is not in the codebook.
    """
    found = [units for units in samples if units is not None]
    units = np.concatenate(found) if found else np.empty(0, np.uint16)
    return MicroBatch(torch.from_numpy(vocabulary.encode(units)), tuple(map(len, found)))


def _weights(samples: UnitSamples) -> NDArray[np.float64] | None:
    """How often an epoch has each sample; None where that is once."""
    weights = samples.data.corpus_weights
    if not weights:
        return None
    names, codes = samples.corpus_codes()
    if unknown := sorted(weights.keys() - set(names)):
        raise TwistError(
            f"train.data.corpus_weights names {', '.join(unknown)}; the corpora are {', '.join(sorted(names))}"
        )
    of_corpus = np.array([weights.get(name, 1.0) for name in names])
    if (of_corpus == 1).all():
        return None
    if of_corpus[np.unique(codes)].max() == 0:
        raise TwistError("train.data.corpus_weights leaves no sample to train on")
    return of_corpus[codes]


@dataclass(frozen=True)
class _Pieces:
    """Consecutive pieces of samples, [N] each.

    Attributes:
        owner: The sample that each belongs to, ascending.
        piece: Its number in that sample.
        num_units: Its units.
        num_units_left_out: Units in pieces that are left out.
    """

    owner: NDArray[np.int32]
    piece: NDArray[np.integer]
    num_units: NDArray[np.int32]
    num_units_left_out: int


def _cut(lengths: NDArray[np.int32], max_units: int) -> _Pieces:
    """Cuts samples into pieces of `max_units` and a rest, and leaves out pieces of less than two units."""
    num_pieces = -(-lengths // np.int32(max_units))
    owner = np.repeat(np.arange(len(lengths), dtype=np.int32), num_pieces)
    first = np.cumsum(num_pieces, dtype=np.int32)
    first -= num_pieces
    piece: NDArray[np.integer] = np.arange(len(owner), dtype=np.int32)
    piece -= first[owner]
    # A byte each, where no sample has more than 256 pieces.
    piece = piece.astype(np.min_scalar_type(piece.max(initial=0)))
    if len(owner) == len(lengths) and not piece.any():
        num_units = lengths
    else:
        num_units = np.minimum(lengths[owner] - piece * np.int32(max_units), np.int32(max_units))
    is_kept = num_units >= 2
    if is_kept.all():
        return _Pieces(owner, piece, num_units, 0)
    left_out = int(num_units[~is_kept].sum())
    return _Pieces(owner[is_kept], piece[is_kept], num_units[is_kept], left_out)
