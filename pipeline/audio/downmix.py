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
# A channel 30 dB below the strongest one adds nothing but its noise.
DEAD = 1e-3


class ChannelStatistics:
    """Sums over the samples of a stretch, piece by piece."""

    def __init__(self, num_channels: int) -> None:
        self._energies = np.zeros(num_channels)
        self._mean_energy = 0.0
        self._num_bad = np.zeros(num_channels, np.int64)

    def add(self, samples: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        """Adds samples [S, channels] and their mean [S]."""
        bad = ~np.isfinite(samples)
        if bad.any():
            # Where all are bad, no choice of channels helps.
            self._num_bad += (bad & ~bad.all(axis=1, keepdims=True)).sum(axis=0)
            samples = np.where(bad, np.float32(0), samples)
            mean = np.where(np.isfinite(mean), mean, np.float32(0))
        self._energies += np.einsum("sc,sc->c", samples, samples, dtype=np.float64)
        self._mean_energy += float(np.dot(mean.astype(np.float64), mean))

    def weights(self) -> NDArray[np.float32] | None:
        """The weight of each channel [channels]; None if the plain mean of all is right."""
        usable = self._num_bad == 0
        if not usable.any():
            usable = self._num_bad == self._num_bad.min()
        strongest = float(self._energies[usable].max())
        taken = usable & (self._energies >= DEAD * strongest)
        if taken.all() and self._mean_energy >= CANCELLED * strongest:
            return None
        if taken.all():  # they cancel
            taken = np.arange(len(usable)) == int(self._energies.argmax())
        weights: NDArray[np.float32] = (taken / taken.sum()).astype(np.float32)
        return weights
