"""The order of samples: an endless stream of epochs that depends on the seed alone and can be entered at any position.

1. Neighbouring samples of a shard form a block. Packing has already shuffled all samples, so a block is a random few of
   them, and it is contiguous in its file.
2. An epoch is a permutation of all blocks, drawn from (seed, epoch) and divided into groups of `BLOCKS_PER_GROUP`.
3. Within a group, the samples of each block are permuted, then dealt in turn: one from the first block, one from the
   second, and so on. So a batch has samples from all over the data, a rank reads from few blocks at a time, and each
   block is read once per epoch.

Finding a position takes the permutation of its epoch's blocks (for 22 million samples, a sort of some hundred thousand
numbers) and the order within one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKS_PER_GROUP = 64
# Orders of groups kept in memory: the one being read, the next (read ahead), and one to spare.
GROUPS_KEPT = 3
GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class _Epoch:
    """The blocks of an epoch, in the order in which they are read.

    Attributes:
        number: The epoch, from 0.
        samples: [n] all samples of the epoch, block by block; None stands for 0 to n - 1.
        starts: [b] index of each block's first sample in `samples`.
        sizes: [b] number of samples in each block.
        group_ends: [g] position in the epoch after the last sample of each group.
    """

    number: int
    samples: NDArray[np.int64] | None
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    group_ends: NDArray[np.int64]


class EpochOrder:
    """Epochs over samples that are stored in blocks.

    Args:
        blocks: [N] the block of each sample, ascending.
        seed: Determines the order.
        weights: [N] how often each sample occurs per epoch; None: once. After e epochs a sample of weight w has
            occurred floor(e * w) or ceil(e * w) times, so at w = 0.5 each epoch has the other half of the samples.
    """

    def __init__(self, blocks: NDArray[np.int32], seed: int, weights: NDArray[np.float64] | None = None) -> None:
        self._blocks = blocks
        self._seed = seed
        self._weights = weights
        self._epoch: _Epoch | None = None
        self._epoch_starts: dict[int, int] = {0: 0}
        self._groups: dict[tuple[int, int], NDArray[np.int64]] = {}

    def samples(self, start: int, stop: int) -> NDArray[np.int64]:
        """The samples at positions `start` to `stop` (exclusive) of the stream."""
        found = []
        while start < stop:
            group_start, group = self.group_at(start)
            taken = group[start - group_start :][: stop - start]
            found.append(taken)
            start += len(taken)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def group_at(self, place: int) -> tuple[int, NDArray[np.int64]]:
        """The group at a position of the stream: the position of the group's first sample, and its samples in order."""
        number = self._epoch_at(place)
        epoch = self._open_epoch(number)
        epoch_start = self._places_before(number)
        group = int(np.searchsorted(epoch.group_ends, place - epoch_start, side="right"))
        samples = self._open_group(epoch, group)
        return epoch_start + int(epoch.group_ends[group]) - len(samples), samples

    def _places_before(self, epoch: int) -> int:
        """Total length of all epochs before this one."""
        if self._weights is None:
            return epoch * len(self._blocks)
        if epoch not in self._epoch_starts:
            self._epoch_starts[epoch] = int(self._copies_before(epoch).sum())
        return self._epoch_starts[epoch]

    def _copies_before(self, epoch: int) -> NDArray[np.int64]:
        """How often each sample occurs in all epochs before this one, [N]."""
        assert self._weights is not None
        # Evenly spread phases give epochs of nearly equal size.
        phases = np.arange(len(self._blocks)) * GOLDEN_RATIO % 1
        return np.floor(phases + epoch * self._weights).astype(np.int64)

    def _epoch_at(self, place: int) -> int:
        if self._weights is None:
            return place // len(self._blocks)
        number = int(place / self._weights.sum())
        while self._places_before(number) > place:
            number -= 1
        while self._places_before(number + 1) <= place:
            number += 1
        return number

    def _open_epoch(self, number: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != number:
            samples = self._weighted_samples(number)
            blocks = self._blocks if samples is None else self._blocks[samples]
            # A sample that occurs twice in an epoch is in two blocks.
            changes = blocks[1:] != blocks[:-1]
            if samples is not None:
                changes |= samples[1:] < samples[:-1]
            starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
            order = np.argsort(self._bits(number, -1, len(starts)), kind="stable")
            sizes = np.diff(np.append(starts, len(blocks)))[order]
            ends = np.cumsum(sizes)
            last_of_group = np.append(np.arange(BLOCKS_PER_GROUP, len(order), BLOCKS_PER_GROUP), len(order)) - 1
            self._epoch = _Epoch(number, samples, starts[order], sizes, ends[last_of_group])
        return self._epoch

    def _weighted_samples(self, epoch: int) -> NDArray[np.int64] | None:
        if self._weights is None:
            return None
        copies = self._copies_before(epoch + 1) - self._copies_before(epoch)
        return np.concatenate([np.flatnonzero(copies > copy) for copy in range(max(1, copies.max()))])

    def _open_group(self, epoch: _Epoch, group: int) -> NDArray[np.int64]:
        key = (epoch.number, group)
        if key not in self._groups:
            chosen = slice(group * BLOCKS_PER_GROUP, (group + 1) * BLOCKS_PER_GROUP)
            starts, sizes = epoch.starts[chosen], epoch.sizes[chosen]
            turns = np.arange(sizes.max())
            is_there = turns < sizes[:, None]
            bits = self._bits(epoch.number, group, is_there.size).reshape(is_there.shape)
            bits[~is_there] = np.iinfo(np.uint64).max
            places = starts[:, None] + np.argsort(bits, axis=1, kind="stable")
            dealt = places.T[is_there.T]
            while len(self._groups) >= GROUPS_KEPT:
                del self._groups[next(iter(self._groups))]
            self._groups[key] = dealt if epoch.samples is None else epoch.samples[dealt]
        return self._groups[key]

    def _bits(self, epoch: int, group: int, count: int) -> NDArray[np.uint64]:
        # Of numpy's random streams only the raw bits are the same in every version.
        return np.random.PCG64(np.random.SeedSequence([self._seed, epoch, group + 1])).random_raw(count)
