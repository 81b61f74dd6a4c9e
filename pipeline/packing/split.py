"""Which split a speaker belongs to: the corpus' own if it has one, otherwise dealt out by hours in a seeded order.

Speakers are ordered by a hash of their names. Validation takes them from the front, test from the back, each whoever
still fits into its share; what neither takes is for training. So the hours are as asked to within half of the smallest
speaker left, and when corpora grow, new speakers come between the others and few of those change their split.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pipeline.records import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.packing.config import SplitConfig

TRAIN, VALIDATION, TEST = range(len(SPLITS))
# How many names are turned into str at a time; all at once take several times the column's memory.
NAMES_AT_ONCE = 100_000


def assign_splits(
    groups: pa.ChunkedArray, hours: NDArray[np.float64], own: NDArray[np.int8], config: SplitConfig
) -> NDArray[np.int8]:
    """Assigns groups of recordings that must stay together to splits.

    A group is a speaker, or a recording whose speaker is unknown. With few groups, one for training comes first, then
    one for each share above 0, validation before test, however small the share.

    Args:
        groups: Names of the groups [groups], each once.
        hours: [groups]; those without any go to training.
        own: [groups] the split that the corpus gives each group, as an index of SPLITS; -1 if none.
        config: Shares and seed. The shares are of the hours of groups without a split of their own.

    Returns:
        [groups], indices of SPLITS.
    """
    is_free = own < 0 if config.corpus_splits == "keep" else np.ones(len(own), bool)
    splits = np.where(is_free, np.int8(TRAIN), own)
    filled = set(splits[~is_free & (hours > 0)].tolist())
    left = np.flatnonzero(is_free & (hours > 0))
    left = left[np.argsort(_hashes(groups, config.seed)[left], kind="stable")]
    total = float(hours[left].sum())
    shares = {VALIDATION: config.validation_share, TEST: config.test_share}
    for split, share in shares.items():
        if not share:
            continue
        missing = {TRAIN, *(other for other, wanted in shares.items() if wanted)} - filled - {split}
        fewest = int(split not in filled and len(left) > (TRAIN not in filled))
        most = max(fewest, len(left) - len(missing))
        from_end = left if split == VALIDATION else left[::-1]
        chosen = from_end[_nearest(hours[from_end], share * total, fewest, most)]
        splits[chosen] = split
        filled.update([split] if len(chosen) else [])
        left = left[~np.isin(left, chosen)]
    return splits


def _nearest(sizes: NDArray[np.float64], target: float, fewest: int, most: int) -> NDArray[np.int64]:
    """Chooses `fewest` (0 or 1) to `most` of these sizes with a sum near the target: each in turn that still fits, and
    at last the smallest of the others if that comes nearer."""
    chosen = [np.empty(0, np.int64)]
    fitting, missing = np.arange(len(sizes)), target
    while len(fitting := fitting[sizes[fitting] <= missing]):
        sums = np.cumsum(sizes[fitting])
        count = int(np.searchsorted(sums, missing, side="right"))
        chosen.append(fitting[:count])
        missing -= float(sums[count - 1])
        fitting = fitting[count:]
    found = np.concatenate(chosen)[:most]
    others = np.setdiff1d(np.arange(len(sizes)), found)
    if len(found) < most and len(others):
        smallest = others[np.argmin(sizes[others])]
        if len(found) < fewest or sizes[smallest] < 2 * missing:
            found = np.append(found, smallest)
    return found


def _hashes(names: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """A seeded hash of each name, [names]."""
    hashes = np.empty(len(names), np.uint64)
    for start in range(0, len(names), NAMES_AT_ONCE):
        some = names.slice(start, NAMES_AT_ONCE).to_pylist()
        digests = b"".join(hashlib.blake2b(f"{seed}:split:{name}".encode(), digest_size=8).digest() for name in some)
        hashes[start : start + len(some)] = np.frombuffer(digests, "<u8")
    return hashes
