"""Which split a sample belongs to: the corpus' own where it has one, else by a stable hash of its speaker."""

from __future__ import annotations

import hashlib
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
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise TwistError(
                f"split.validation and split.test are shares that leave some for training, not {self.validation} and "
                f"{self.test}"
            )


def assign_splits(groups: dict[str, str | None], config: SplitConfig) -> dict[str, str]:
    """The split of each group of samples that must stay together.

    A group (a speaker; a recording whose speaker is unknown) without a split of its own goes where the hash of its name
    says, so that it stays there when the corpora grow. Where this leaves a wanted split empty, as it may with few
    speakers, the group with the nearest hash fills it, so long as some remain for training.

    Args:
        groups: The corpus' own split of each group, or None.
        config: Shares and seed.
    """
    keep = config.corpus_splits == "keep"
    splits = {group: split for group, split in groups.items() if keep and split is not None}
    shares = {group: _share(config.seed, group) for group in groups if group not in splits}
    for group, share in shares.items():
        if share < config.validation:
            splits[group] = "validation"
        elif share < config.validation + config.test:
            splits[group] = "test"
        else:
            splits[group] = "train"
    for split, wanted in (("validation", config.validation), ("test", config.test)):
        movable = sorted((group for group in shares if splits[group] == "train"), key=lambda group: shares[group])
        if wanted > 0 and split not in splits.values() and len(movable) > 1:
            splits[movable[0]] = split
    return splits


def _share(seed: int, group: str) -> float:
    hashed = hashlib.blake2b(f"{seed}:split:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little") / 2**64
