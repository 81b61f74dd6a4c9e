"""Units out of shards, as batches whose order is a function of seed and step alone.

1. `UnitSamples` indexes one split by the shards' manifest: a sample longer than `max_units` counts as several
   consecutive pieces. Units are read straight from the tars by byte offset; no tar is parsed.
2. All samples of an epoch, in an order drawn from (seed, epoch), then all of the next epoch, and so on, form one
   endless stream. Batch `i` is the stream from `i * batch_size` to `(i + 1) * batch_size`: nothing is left over at the
   end of an epoch, and any step is found at once, without replay.
3. Rank `r` of `W` takes the r-th of W equal slices of each batch. Which samples make up a step does not depend on `W`,
   on the number of loader processes, or on whether the run was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from model.speech_lm import IGNORED_LABEL
from pipeline import storage
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.vocab import Vocabulary
    from pipeline.shards import Dataset


class UnitSamples:
    """The samples of one split, each of 2 to `max_units` units.

    Longer samples are cut into consecutive pieces; a piece of one unit, which has nothing to predict, is left out and
    counted in `num_units_left_out`.

    Raises:
        TwistError: the split has no sample of two units.
    """

    def __init__(self, dataset: Dataset, split: str, max_units: int) -> None:
        rows = np.flatnonzero(dataset.manifest["split"].to_numpy() == split)
        lengths = dataset.manifest["num_units"].to_numpy()[rows].astype(np.int64)
        owner, starts = _cut(lengths, max_units)
        num_units = np.minimum(lengths[owner] - starts, max_units)
        kept = num_units >= 2
        if not kept.any():
            mend = (
                "pack again with a larger pack.split.validation, or with more speakers"
                if split == "validation"
                else "pack again with more audio, or with another pack.split"
            )
            raise TwistError(f"{dataset.uri} has no sample of two or more units in its {split} split; {mend}")
        self.dataset = dataset
        self.num_units: NDArray[np.int64] = num_units[kept]
        self.num_units_left_out = int(num_units[~kept].sum())
        self._rows = rows[owner[kept]]
        self._starts = starts[kept]
        self._units_offsets = dataset.manifest["units_offset"].to_numpy()[self._rows]

    def __len__(self) -> int:
        return len(self.num_units)

    def __getitem__(self, index: int) -> NDArray[np.uint16]:
        """The units of one sample.

        Raises:
            TwistError: its shard is gone or ends too soon.
        """
        shard = storage.join(self.dataset.uri, self._manifest_value("shard", index))
        start_byte = int(self._units_offsets[index] + 2 * self._starts[index])
        num_bytes = 2 * int(self.num_units[index])
        try:
            data = storage.read_range(shard, start_byte, num_bytes)
        except FileNotFoundError:
            raise TwistError(
                f"{shard} is missing, though the shards' manifest lists it; restore it or pack again"
            ) from None
        if len(data) != num_bytes:
            raise TwistError(f"{shard} ends before byte {start_byte + num_bytes}; restore it or pack again")
        return np.frombuffer(data, dtype="<u2")

    def key(self, index: int) -> str:
        """The sample's key in the shards; the pieces of a long one share it."""
        return self._manifest_value("key", index)

    def corpora(self) -> NDArray[np.str_]:
        """The corpus of each sample, [num_samples]."""
        column = self.dataset.manifest["corpus"].combine_chunks().dictionary_encode()
        names: NDArray[np.str_] = np.array(column.dictionary.to_pylist())
        codes: NDArray[np.int32] = column.indices.to_numpy()
        corpora: NDArray[np.str_] = names[codes[self._rows]]
        return corpora

    def _manifest_value(self, column: str, index: int) -> str:
        return str(self.dataset.manifest[column][int(self._rows[index])].as_py())


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass sees.

    Attributes:
        token_ids: [B, T] int64, padded on the right.
        labels: [B, T] int64: the same, with IGNORED_LABEL where nothing is to be predicted.
        document_ids: [B, T] int32, which document of its row a token belongs to, from 0, and -1 at pads; None where
            each row is one document.
    """

    token_ids: Tensor
    labels: Tensor
    document_ids: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One rank's part of one training step.

    Attributes:
        index: Number of the step, from 0.
        micro_batches: One per forward pass.
        num_units: Units in the step, over all ranks.
        num_targets: Units that are predicted in the step, over all ranks.
    """

    index: int
    micro_batches: list[MicroBatch]
    num_units: int
    num_targets: int


class TrainingBatches(torch.utils.data.Dataset[Batch]):
    """The batch of any step, for one rank.

    Args:
        samples: What to train on.
        vocabulary: Turns units into ids.
        batch_size: Samples per step, over all ranks.
        num_micro_batches: Forward passes into which each rank parts its slice.
        seed: Of the order.
        rank: Which slice of each batch to give.
        world_size: Number of slices.

    Raises:
        TwistError: the batch cannot be parted evenly.
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
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __getitem__(self, index: int) -> Batch:
        indices = self.sample_indices(index)
        mine = indices.reshape(self._world_size, self._num_micro_batches, -1)[self._rank]
        return Batch(
            index,
            [collate([self._samples[int(i)] for i in micro_batch], self._vocabulary) for micro_batch in mine],
            num_units=int(self._samples.num_units[indices].sum()),
            num_targets=int((self._samples.num_units[indices] - 1).sum()),
        )

    def sample_indices(self, index: int) -> NDArray[np.int64]:
        """The samples of batch `index` over all ranks, [batch_size]."""
        positions = np.arange(index * self._batch_size, (index + 1) * self._batch_size)
        epochs, places = np.divmod(positions, len(self._samples))
        return np.concatenate([self._epoch_order(int(e))[places[epochs == e]] for e in np.unique(epochs)])

    def keys(self, index: int) -> list[str]:
        """Keys of the samples of batch `index` over all ranks."""
        return [self._samples.key(int(i)) for i in self.sample_indices(index)]

    def iterate(self, start: int, stop: int, num_workers: int) -> DataLoader[Batch]:
        """Batches `start` to `stop` in order, read by `num_workers` other processes (0: by this one)."""
        return DataLoader(self, batch_size=None, sampler=range(start, stop), num_workers=num_workers)

    def state_dict(self, num_batches: int) -> dict[str, Any]:
        """Where the stream stands after `num_batches` batches, for a checkpoint."""
        return {
            "seed": self._seed,
            "num_batches": num_batches,
            "dataset_fingerprint": self._samples.dataset.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """The number of the batch with which a run goes on.

        Raises:
            TwistError: the state is that of other data or another order.
        """
        here = self.state_dict(state["num_batches"])
        for name, meaning in (("dataset_fingerprint", "shards"), ("seed", "seed")):
            if state[name] != here[name]:
                raise TwistError(
                    f"the checkpoint was trained with other {meaning} ({state[name]}) than {self._samples.dataset.uri} "
                    f"with these settings ({here[name]}); go on with the same, or train into another folder"
                )
        return int(state["num_batches"])

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            # Sorted by raw bits, the one part of numpy's random streams that is the same in every version.
            bits = np.random.PCG64(np.random.SeedSequence([self._seed, epoch])).random_raw(len(self._samples))
            self._order = np.argsort(bits, kind="stable")
            self._epoch = epoch
        return self._order


def collate(samples: Sequence[NDArray[np.uint16]], vocabulary: Vocabulary) -> MicroBatch:
    """Samples as rows of ids, padded on the right."""
    shape = (len(samples), max(len(units) for units in samples))
    token_ids = torch.full(shape, vocabulary.pad_id)
    labels = torch.full(shape, IGNORED_LABEL)
    for row, units in enumerate(samples):
        ids = torch.from_numpy(vocabulary.encode(units))
        token_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = ids
    return MicroBatch(token_ids, labels)


def _cut(lengths: NDArray[np.int64], max_units: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pieces of at most `max_units`: the sample that each belongs to, and its first unit in it."""
    num_pieces = -(-lengths // max_units)
    owner = np.repeat(np.arange(len(lengths)), num_pieces)
    number_in_sample = np.arange(len(owner)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    return owner, number_in_sample * max_units
