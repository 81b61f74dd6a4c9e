"""Reads units from shards in batches whose order depends on the seed and the step alone.

1. `UnitSamples` (`samples.py`) indexes one split from the shards' manifest: a sample longer than `max_units` counts as
   several consecutive pieces. Units are read from the tars by byte offset (`shard_reader.py`); no tar is parsed.
2. All samples of the first epoch, in an order drawn from (seed, epoch) (`epoch_order.py`), then all of the next epoch,
   and so on, form one endless stream. Batch `i` is the stream from `i * batch_size` to `(i + 1) * batch_size`: nothing
   is left over at the end of an epoch, and any step is found at once, without replay.
3. Rank `r` of `W` takes the r-th of W equal slices of each batch. The samples of a step do not depend on `W`, on the
   number of loader processes, or on whether the run was interrupted.
4. The samples of a forward pass are concatenated, without padding. Other trainers get rows (`batch_stream.py`). If the
   vocabulary has BOS and EOS, a sample has them around it; of a sample in pieces, the first has BOS and the last EOS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from model.lm.epoch_order import EpochOrder
from model.training import step_batches
from model.training.step_batches import require_even_parts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.lm.samples import SplitSamples, UnitSamples
    from model.lm.vocab import Vocabulary


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
        num_targets: Units, and EOS, predicted in the step, over all ranks.
        num_skipped: Samples of this rank that were left out because they are damaged. They still count in
            num_units and num_targets, which every rank knows without reading the samples.
        units_by_kind: Of a mixture of kinds, the units of each in the step.
    """

    index: int
    micro_batches: list[MicroBatch]
    num_units: int
    num_targets: int
    num_skipped: int = 0
    units_by_kind: dict[str, int] = field(default_factory=dict)


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
        require_even_parts("train.batch_size", batch_size, world_size, num_micro_batches)
        self._samples = samples
        self._vocabulary = vocabulary
        self._batch_size = batch_size
        self._num_micro_batches = num_micro_batches
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._order = EpochOrder(samples.blocks, seed, weights_of_samples(samples))
        self._group_start = -1

    def __getitem__(self, index: int) -> Batch:
        indices = self.sample_indices(index)
        mine = indices.reshape(self._world_size, self._num_micro_batches, -1)[self._rank]
        self._read_ahead(index)
        micro_batches = list(map(self._micro_batch, mine))
        num_units = int(self._samples.num_units[indices].sum(dtype=np.int64))
        num_specials = sum(int(are.sum()) for are in self._ends(indices) or ())
        return Batch(
            index,
            micro_batches,
            num_units=num_units,
            num_targets=num_units + num_specials - len(indices),
            num_skipped=mine.size - sum(len(micro_batch.lengths) for micro_batch in micro_batches),
        )

    @property
    def max_units(self) -> int:
        """Length of the longest possible sample, in units, with BOS and EOS."""
        return self._samples.max_units + self._vocabulary.num_marks

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
        ends = self._ends(indices)
        try:
            return collate(self._samples.read(indices), self._vocabulary, ends)
        except TwistError:
            # Some unit is out of range: find its shard.
            return collate(self._samples.read(indices, below=self._vocabulary.codebook_size), self._vocabulary, ends)

    def _ends(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Which samples have BOS before them and which EOS behind, [n] each; None if the model has neither."""
        return self._samples.are_ends(indices) if self._vocabulary.num_marks else None

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


def collate(
    samples: Sequence[NDArray[np.uint16] | None],
    vocabulary: Vocabulary,
    ends: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> MicroBatch:
    """Concatenates samples and turns them into ids; leaves out None, a sample that could not be read.

    Args:
        samples: [S] the units of each.
        vocabulary: Turns them into ids.
        ends: Which samples get BOS before them, and which EOS behind, [S] each; None: neither.

    Raises:
        TwistError: a unit is not in the codebook.
    """
    found = [units for units in samples if units is not None]
    units = np.concatenate(found) if found else np.empty(0, np.uint16)
    ids, lengths = vocabulary.encode(units), np.fromiter(map(len, found), np.int64, len(found))
    if ends is not None:
        assert vocabulary.bos_id is not None
        is_found = [units is not None for units in samples]
        has_bos, has_eos = (are[is_found] for are in ends)
        behind = lengths.cumsum()
        # EOS of one sample and BOS of the next fall on one place; as they are one id, either may come first.
        ids = np.insert(ids, np.concatenate([(behind - lengths)[has_bos], behind[has_eos]]), vocabulary.bos_id)
        lengths += has_bos.astype(np.int64) + has_eos
    return MicroBatch(torch.from_numpy(ids), tuple(lengths.tolist()))


def weights_of_samples(samples: SplitSamples) -> NDArray[np.float64] | None:
    """How often an epoch has each sample, [N]; None where that is once.

    Raises:
        TwistError: a weight is of an unknown corpus, or all are 0.
    """
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
