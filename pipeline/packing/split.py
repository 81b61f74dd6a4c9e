"""Which split a sample belongs to: its corpus's own if it has one, otherwise by a stable hash of its speaker."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pipeline.packing.config import SplitConfig
from pipeline.records import SPLITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def assign_splits(groups: Sequence[str], own: NDArray[np.int8], config: SplitConfig) -> NDArray[np.int8]:
    """Assigns groups of samples that must stay together to splits.

    A group is a speaker, or a recording whose speaker is unknown. If its corpus does not give it a split, a hash of its
    name does, so it stays in that split when the corpora grow. With few speakers this may leave a wanted split empty:
    the group with the nearest hash then fills it, unless that would empty another split. Training is filled first.

    Args:
        groups: Names of the groups, each once.
        own: [groups] the split that the corpus gives each group, as an index of SPLITS; -1 if none.
        config: Shares and seed.

    Returns:
        [groups], indices of SPLITS.
    """
    is_free = own < 0 if config.corpus_splits == "keep" else np.ones(len(own), bool)
    places = np.fromiter((_place(config.seed, group) for group in groups), np.float64, len(groups))
    bounds = {
        "train": (config.validation + config.test, 1.0),
        "validation": (0.0, config.validation),
        "test": (config.validation, config.validation + config.test),
    }
    stretches = [bounds[split] for split in SPLITS]
    splits = own.copy()
    for number, (start, end) in enumerate(stretches):
        splits[is_free & (places >= start) & (places < end)] = number
    for number, (start, end) in enumerate(stretches):
        sizes = np.bincount(splits, minlength=len(SPLITS))
        if start == end or sizes[number]:
            continue
        # Distances of the groups that can be spared from this split's interval of hashes.
        spare = np.flatnonzero(is_free if number == 0 else is_free & (sizes[splits] > 1))
        if len(spare):
            distances = np.maximum(start - places[spare], places[spare] - end)
            nearest = spare[distances == distances.min()]
            splits[min(nearest.tolist(), key=lambda group: groups[group])] = number
    return splits


def _place(seed: int, group: str) -> float:
    """A hash of the group's name, uniform in [0, 1)."""
    hashed = hashlib.blake2b(f"{seed}:split:{group}".encode(), digest_size=8).digest()
    return (int.from_bytes(hashed, "little") >> 11) / 2**53  # 53 bits fit a float exactly: never rounded up to 1
