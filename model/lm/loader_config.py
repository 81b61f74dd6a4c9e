"""Which of the shards' samples a run trains on, and what happens to damaged shards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import TwistError

# A resumed run may change these: they affect where units are read from, not which units.
CHANGEABLE = frozenset({"data.cache", "data.damaged", "data.verify_checksums"})


@dataclass(frozen=True)
class LoaderConfig:
    """How samples reach the trainer.

    Args:
        corpus_weights: By corpus, how often each of its samples occurs per epoch; 1 for corpora not named. At 0.5 an
            epoch has half of a corpus, and the next one the other half.
        share: Share of the samples to train on, chosen by a hash of their ids: a smaller share is part of any larger.
        damaged: What to do with a shard that is missing or truncated, and with a sample whose units are not those that
            were packed: fail ends the run and names it, skip leaves it out and counts it.
        verify_checksums: Whether units are held to the checksums in the shards' manifest whenever they are read (of
            shards without such: a whole shard to its sha256, before each process first reads from it). Sizes are always
            checked.
        cache: Local folder that caches the units of remote shards (18 GB for 9 billion); null: no cache.
    """

    corpus_weights: dict[str, float] = field(default_factory=dict)
    share: float = 1.0
    damaged: Literal["fail", "skip"] = "fail"
    verify_checksums: bool = True
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.damaged not in ("fail", "skip"):
            raise TwistError(f"train.data.damaged is {self.damaged!r}; it must be fail or skip")
        if not 0 < self.share <= 1:
            raise TwistError(f"train.data.share is {self.share}; it must be above 0 and at most 1")
        for corpus, weight in self.corpus_weights.items():
            if not 0 <= weight < math.inf:
                raise TwistError(f"train.data.corpus_weights of {corpus} is {weight}; it must be at least 0")
        if self.cache is not None and "://" in self.cache:
            raise TwistError(f"train.data.cache is {self.cache}; it must be a local folder")
