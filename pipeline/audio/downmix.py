"""Which channels of a recording are mixed, where their plain mean would lose what is said.

The mean of two channels of opposite phase is silence, a dead channel halves the other, and one with samples that are no
numbers would spoil all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The mean of channels that have nothing in common has at least this share of the strongest one's energy, for two; where
# it has less than a fifth of that, they cancel.
CANCELLED = 0.05
# Channels cancel if they do so in blocks (of one phase, as a change of cable or a cut makes them) that hold this share
# of the strongest one's energy.
CANCELLED_SHARE = 0.1
BLOCK_S = 1.0
# A channel 30 dB below the strongest one adds nothing but its noise.
DEAD = 1e-3


class ChannelStatistics:
    """Sums over the blocks of a stretch, which comes piece by piece."""

    def __init__(self, num_channels: int, sample_rate_hz: int) -> None:
        self._block = max(1, round(BLOCK_S * sample_rate_hz))
        self._num_frames = 0
        self._energies: list[NDArray[np.float64]] = []
        """Of each block, [channels]."""
        self._mean_energies: list[float] = []
        """Of each block, that of the mean of all channels."""
        self._num_bad = np.zeros(num_channels, np.int64)

    def add(self, samples: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        """Adds samples [S, channels] and their mean [S]."""
        bad = ~np.isfinite(samples)
        if bad.any():
            # Where all are bad, no choice of channels helps.
            self._num_bad += (bad & ~bad.all(axis=1, keepdims=True)).sum(axis=0)
            samples = np.where(bad, np.float32(0), samples)
            mean = samples.mean(axis=1, dtype=np.float32)
        first = 0
        while first < len(samples):
            block, begun = divmod(self._num_frames + first, self._block)
            last = first + self._block - begun
            piece, piece_mean = samples[first:last], mean[first:last].astype(np.float64)
            if block == len(self._energies):
                self._energies.append(np.zeros(samples.shape[1]))
                self._mean_energies.append(0.0)
            self._energies[block] += np.einsum("sc,sc->c", piece, piece, dtype=np.float64)
            self._mean_energies[block] += float(np.dot(piece_mean, piece_mean))
            first = last
        self._num_frames += len(samples)

    def weights(self) -> NDArray[np.float32] | None:
        """The weight of each channel [channels]; None if the plain mean of all is right."""
        if not self._energies:
            return None
        of_blocks = np.stack(self._energies)
        energies = of_blocks.sum(axis=0)
        usable = self._num_bad == 0
        if not usable.any():
            usable = self._num_bad == self._num_bad.min()
        taken = usable & (energies >= DEAD * energies[usable].max())
        # What is not taken is next to nothing in the mean, or damaged, where one channel too few may be taken.
        mean_of_taken = np.array(self._mean_energies) * (len(taken) / taken.sum()) ** 2
        strongest = of_blocks[:, taken].max(axis=1)
        cancelled = mean_of_taken < CANCELLED * strongest
        if taken.sum() > 1 and strongest[cancelled].sum() > CANCELLED_SHARE * strongest.sum():
            taken = np.arange(len(taken)) == int(np.where(taken, energies, -1).argmax())
        if taken.all():
            return None
        weights: NDArray[np.float32] = (taken / taken.sum()).astype(np.float32)
        return weights
