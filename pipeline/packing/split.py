"""Which split a sample belongs to: the corpus' own where it has one, else by a stable hash of its speaker."""

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
    """The split of each group of samples that must stay together.

    A group (a speaker; a recording whose speaker is unknown) without a split of its own goes where the hash of its name
    says, so that it stays there when the corpora grow. Where this leaves a wanted split empty, as it may with few
    speakers, the group with the nearest hash fills it, if it leaves no other split empty; training comes first.

    Args:
        groups: Their names, each once.
        own: [groups] the corpus' own split of each, as a number of SPLITS, or -1.
        config: Shares and seed.

    Returns:
        [groups], numbers of SPLITS.
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
        # How far each group that can be spared lies from this split's stretch.
        spare = np.flatnonzero(is_free if number == 0 else is_free & (sizes[splits] > 1))
        if len(spare):
            distances = np.maximum(start - places[spare], places[spare] - end)
            nearest = spare[distances == distances.min()]
            splits[min(nearest.tolist(), key=lambda group: groups[group])] = number
    return splits


def _place(seed: int, group: str) -> float:
    """Where a group lies between 0 and 1, as evenly as a hash spreads them."""
    hashed = hashlib.blake2b(f"{seed}:split:{group}".encode(), digest_size=8).digest()
    return (int.from_bytes(hashed, "little") >> 11) / 2**53  # as many bits as a float holds: never rounded up to 1
