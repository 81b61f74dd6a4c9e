"""Which split a sample belongs to: the corpus' own where it has one, else by a stable hash of its speaker."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import TwistError


@dataclass(frozen=True)
class SplitConfig:
    """How samples are parted.

    Args:
        corpus_splits: Whether the splits that a corpus defines are kept, or made anew.
        validation: Share of speakers that goes to validation where the corpus defines no splits (TWIST: 0.02).
        test: Share of speakers that goes to test there.
        seed: Seed of the hash.
    """

    corpus_splits: Literal["keep", "ignore"] = "keep"
    validation: float = 0.02
    test: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise TwistError(
                f"split.validation and split.test are shares that leave some for training, not {self.validation} and "
                f"{self.test}"
            )


def assign_splits(groups: dict[str, str | None], config: SplitConfig) -> dict[str, str]:
    """The split of each group of samples that must stay together.

    A group (a speaker; a recording whose speaker is unknown) without a split of its own goes where the hash of its name
    says, so that it stays there when the corpora grow. Where this leaves a wanted split empty, as it may with few
    speakers, the group with the nearest hash fills it, if it leaves no other split empty; training comes first.

    Args:
        groups: The corpus' own split of each group, or None.
        config: Shares and seed.
    """
    keep = config.corpus_splits == "keep"
    splits = {group: split for group, split in groups.items() if keep and split is not None}
    places = {group: _place(config.seed, group) for group in groups if group not in splits}
    stretches = {
        "train": (config.validation + config.test, 1.0),
        "validation": (0.0, config.validation),
        "test": (config.validation, config.validation + config.test),
    }
    for group, place in places.items():
        splits[group] = next(split for split, (start, end) in stretches.items() if start <= place < end)
    for split, (start, end) in stretches.items():
        sizes = Counter(splits.values())
        if start == end or sizes[split]:
            continue
        # How far each group that can be spared lies from this split's stretch.
        distances = {
            group: max(start - place, place - end)
            for group, place in places.items()
            if split == "train" or sizes[splits[group]] > 1
        }
        if distances:
            splits[min(distances, key=lambda group: (distances[group], group))] = split
    return splits


def _place(seed: int, group: str) -> float:
    """Where a group lies between 0 and 1, as evenly as a hash spreads them."""
    hashed = hashlib.blake2b(f"{seed}:split:{group}".encode(), digest_size=8).digest()
    return (int.from_bytes(hashed, "little") >> 11) / 2**53  # as many bits as a float holds: never rounded up to 1
