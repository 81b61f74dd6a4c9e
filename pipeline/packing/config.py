"""The settings of packing: how units become shards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.errors import TwistError

# In corpora up to this size a sequence of two units is specific enough to be a landmark.
FEW_UNITS = 10_000_000
DEFAULT_SHARE = 0.02


@dataclass(frozen=True)
class SplitConfig:
    """How samples are divided into train, validation and test.

    Args:
        corpus_splits: Whether to keep the splits that a corpus defines, or to ignore them and split all speakers anew.
        validation: Share of hours that go to validation, in corpora without splits of their own. Default: 0.02 (as in
            TWIST), or nothing where there are too few speakers; a share that is given must be filled.
        test: Share of hours that go to test, likewise.
        seed: Seed of the order in which speakers are dealt out.
    """

    corpus_splits: Literal["keep", "ignore"] = "keep"
    validation: float | None = None
    test: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        validation, test = self.validation_share, self.test_share
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise TwistError(
                f"pack.split.validation and pack.split.test are shares that leave some for training, not {validation} "
                f"and {test}"
            )

    @property
    def validation_share(self) -> float:
        """`validation`, or its default."""
        return DEFAULT_SHARE if self.validation is None else self.validation

    @property
    def test_share(self) -> float:
        """`test`, or its default."""
        return DEFAULT_SHARE if self.test is None else self.test


@dataclass(frozen=True)
class DegenerateConfig:
    """Bounds on the units of a segment, outside which it cannot be speech; null turns a bound off.

    Normal speech, in 100 to 500 kinds of units at 25 Hz, has 15 to 20 units per second, no unit for more than a third
    of its length, and over 3.5 bits of entropy in any 2 seconds.

    Args:
        max_unit_share: Largest share of a segment's duration that one kind of unit may take.
        min_entropy_bits: Lowest entropy of a segment's units.
        min_units_per_s: Fewest units per second.
        max_units_per_s: Most units per second.
    """

    max_unit_share: float | None = 0.7
    min_entropy_bits: float | None = 1.5
    min_units_per_s: float | None = 2.0
    max_units_per_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise TwistError(f"pack.degenerate.{name} is {value}; it must be at least 0, or null")
        if (self.min_units_per_s or 0) > (math.inf if self.max_units_per_s is None else self.max_units_per_s):
            raise TwistError("pack.degenerate.min_units_per_s must not be above max_units_per_s")


@dataclass(frozen=True)
class DuplicatesConfig:
    """Which repeated speech is dropped.

    Args:
        drop: none; exact: segments with exactly the units and durations of another; near: also copies of the same
            recording that were encoded, resampled or cut differently.
        min_similarity: Smallest share of frames with the same unit (give or take a frame) at which two segments count
            as the same recording: copies have 0.65 to 1, other readings of the same text below 0.2.
        min_overlap: Share of the dropped segment that the other segment must contain.
        pairs_per_landmark: How many later landmarks each one is paired with. Fewer pairs need less space (7 bytes per
            unit and pair) and time, but find fewer shifted copies.
        landmark_units: Units in a landmark: 2 finds more copies; 3 or 4 take less time in large corpora, where pairs of
            two-unit landmarks recur by chance. Default: 2 up to 10 million units, otherwise 3.
    """

    drop: Literal["none", "exact", "near"] = "near"
    min_similarity: float = 0.6
    min_overlap: float = 0.45
    pairs_per_landmark: int = 4
    landmark_units: int | None = None

    def __post_init__(self) -> None:
        if self.drop not in ("none", "exact", "near"):
            raise TwistError(f"pack.duplicates.drop is {self.drop!r}; it must be none, exact or near")
        if not 0 < self.min_similarity <= 1 or not 0 < self.min_overlap <= 1:
            raise TwistError("pack.duplicates.min_similarity and min_overlap must be above 0 and at most 1")
        if not 1 <= self.pairs_per_landmark <= 32:
            raise TwistError("pack.duplicates.pairs_per_landmark must be 1 to 32")
        if self.landmark_units not in (None, 2, 3, 4):
            raise TwistError("pack.duplicates.landmark_units must be 2, 3 or 4")

    def for_size(self, num_units: int) -> DuplicatesConfig:
        """This config with `landmark_units` set for a corpus of `num_units` units."""
        return replace(self, landmark_units=self.landmark_units or (2 if num_units <= FEW_UNITS else 3))


@dataclass(frozen=True)
class EvaluationSet:
    """Speech to evaluate on, which is kept out of training.

    Args:
        path: A folder of audio, a JSONL of units, or a folder of shards; local or s3://.
        name: Name of the set in the details of dropped segments; by default the last part of `path`.
        min_similarity: Smallest share of frames with the same unit at which a segment counts as holding a clip.
        min_overlap: Share of the clip, or of the segment if that is shorter, that both must have.
    """

    path: str
    name: str | None = None
    min_similarity: float = 0.5
    min_overlap: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.min_similarity <= 1 or not 0 < self.min_overlap <= 1:
            raise TwistError("pack.decontaminate: min_similarity and min_overlap must be above 0 and at most 1")

    @property
    def label(self) -> str:
        """`name`, or the last part of `path`."""
        return self.name or self.path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class PackConfig:
    """How units become shards.

    Args:
        split: How samples are divided into train, validation and test.
        degenerate: Which segments cannot be speech, by their units.
        duplicates: Which repeated speech is dropped.
        decontaminate: Evaluation sets whose speech is kept out of training.
        units_per_shard: Most units per shard, on average; 10 million are about 100 MB.
        min_shards: Fewest shards of the training split, so that every reader gets one (but never more than samples).
        sample_s: Join neighbouring segments of a recording into samples of up to this many seconds, to train on long
            contexts; 0 makes each segment a sample.
        sample_gap_s: Longest pause in seconds between segments that are joined.
        seed: Seed of the shuffle.
    """

    split: SplitConfig = field(default_factory=SplitConfig)
    degenerate: DegenerateConfig = field(default_factory=DegenerateConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    decontaminate: tuple[EvaluationSet, ...] = ()
    units_per_shard: int = 10_000_000
    min_shards: int = 1
    sample_s: float = 0.0
    sample_gap_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.units_per_shard < 1 or self.min_shards < 1:
            raise TwistError("pack.units_per_shard and pack.min_shards must be positive")
        if not (0 <= self.sample_s < math.inf and 0 <= self.sample_gap_s < math.inf):
            raise TwistError("pack.sample_s and pack.sample_gap_s must be at least 0")
