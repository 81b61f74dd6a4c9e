"""Recognizes a recording by its units, however it was encoded and wherever its segments begin.

1. Landmarks are the n-grams of units (without repeats) whose hash is in the lower half of all hashes, so the same
   speech has the same landmarks. Each is paired with some that follow it. Two segments of one recording share some of
   these pairs, all at the same lag; two readings of a text differ in timing and share hardly any at one lag.
2. Alignment: at the lag on which most shared pairs agree, similarity is the share of frames with the same unit, give or
   take a frame. A shift by half a frame changes almost every other unit, but hardly any by more than a frame.

Pairs of landmarks that vote for a lag are from A. Wang's "An Industrial-Strength Audio Search Algorithm" (2003), which
finds recordings by spectral peaks; keeping hashes below a bound is MinHash for sets of unequal size (FracMinHash).
MinHash of whole segments with LSH bands would not work here: segments that share half of their speech, half a frame
apart, have a Jaccard similarity of 3% over their 5-grams (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A landmark is paired with the second one after it and later ones; the very next one adds little information.
FIRST_PAIR = 2
# Shared pairs whose lags differ by up to this many frames are counted together.
LAG_WINDOW_FRAMES = 2
# Fewest shared pairs of a candidate, by the number of units in a landmark: longer ones coincide less often.
MIN_SHARED_PAIRS = {2: 3, 3: 2, 4: 2}
# Frames that the shared pairs must span, unless they are many; a common phrase spans fewer.
MIN_SPAN_FRAMES = 40
MANY_SHARED_PAIRS = 12
# How far from the voted lag the alignment searches.
LAG_SEARCH_FRAMES = 2
MIN_OVERLAP_FRAMES = 25

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((31, np.uint64(0xBF58476D1CE4E5B9)), (29, np.uint64(0x94D049BB133111EB)))


@dataclass(frozen=True)
class Landmarks:
    """Pairs of landmarks in many segments.

    Attributes:
        keys: [m] hash of the pair.
        owners: [m] the segment that has the pair.
        frames: [m] the frame of the segment at which the pair begins.
    """

    keys: NDArray[np.uint64]
    owners: NDArray[np.int64]
    frames: NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Pairs of segments that may share speech.

    Attributes:
        left, right: [c] the segments.
        lag: [c] frames by which the right one begins later in the recording.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    lag: NDArray[np.int64]


@dataclass(frozen=True)
class Alignment:
    """How similar two segments are where they overlap, at their best lag.

    Attributes:
        similarity: Share of the overlap's frames with the same unit, give or take a frame.
        overlap_frames: Length of the overlap in frames.
    """

    similarity: float
    overlap_frames: int


def landmark_pairs(
    owners: NDArray[np.int64],
    units: NDArray[np.uint16],
    durations: NDArray[np.uint16],
    landmark_units: int,
    pairs_per_landmark: int,
) -> Landmarks:
    """The pairs of landmarks in concatenated segments.

    Args:
        owners: [n] the segment of each unit, ascending.
        units: [n] without repeats.
        durations: [n] in frames.
        landmark_units: Number of units in a landmark.
        pairs_per_landmark: How many later landmarks each one is paired with.
    """
    num_grams = max(0, len(units) - landmark_units + 1)
    hashes = np.zeros(num_grams, np.uint64)
    for place in range(landmark_units):
        hashes = _mixed(hashes * _MULTIPLIER + units[place : place + num_grams] + np.uint64(1))
    is_whole = owners[:num_grams] == owners[len(units) - num_grams :]
    chosen = np.flatnonzero(is_whole & (hashes < np.uint64(2**63)))
    ends = np.cumsum(durations, dtype=np.int64)
    first_units = np.searchsorted(owners, owners[chosen])
    frames = (ends - durations)[chosen] - (ends - durations)[first_units]
    hashes, chosen_owners = hashes[chosen], owners[chosen]
    found = []
    for step in range(FIRST_PAIR, FIRST_PAIR + pairs_per_landmark):
        same = np.flatnonzero(chosen_owners[:-step] == chosen_owners[step:])
        keys = _mixed(hashes[same] * _MULTIPLIER + hashes[same + step])
        found.append(Landmarks(keys, chosen_owners[same], frames[same]))
    return Landmarks(*(np.concatenate([getattr(part, name) for part in found]) for name in vars(found[0])))


def vote(
    left: NDArray[np.integer],
    right: NDArray[np.integer],
    lag: NDArray[np.integer],
    frames: NDArray[np.integer],
    *,
    min_votes: int,
    min_span_frames: int,
) -> Candidates:
    """Finds pairs of segments that share enough pairs of landmarks at nearly the same lag.

    Args:
        left: [h] one segment of each shared pair of landmarks.
        right: [h] the other segment.
        lag: [h] the pair's frame in the left segment minus its frame in the right one.
        frames: [h] the pair's frame in the left segment.
        min_votes: Fewest shared pairs.
        min_span_frames: Fewest frames from the first shared pair to the last, unless they are many.
    """
    # Nearly all pairs of segments share just one landmark, by chance; they are removed before the costlier sort.
    together = left.astype(np.int64) << 32 | right
    order = np.argsort(together)
    ends = np.flatnonzero(np.append(np.diff(together[order]) != 0, len(order) > 0)) + 1
    sizes = np.diff(ends, prepend=0)
    order = order[np.repeat(sizes >= min_votes, sizes)]
    del together
    left, right, lag, frames = (column[order].astype(np.int64) for column in (left, right, lag, frames))

    order = np.lexsort((lag, right, left))
    left, right, lag, frames = left[order], right[order], lag[order], frames[order]
    is_new = np.ones(len(left), bool)
    is_new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    pair = np.cumsum(is_new) - 1
    # One ascending number per vote, in which pairs lie further apart than any window.
    places = pair * 2**20 + lag
    votes = np.searchsorted(places, places + LAG_WINDOW_FRAMES, side="right") - np.arange(len(places))
    best = np.lexsort((lag, -votes, pair))[np.flatnonzero(is_new)]
    best = best[votes[best] >= min_votes]
    # The votes for a pair's best lag are consecutive; reduceat's values for the gaps between pairs are skipped.
    edges = np.stack([best, best + votes[best]], axis=1).ravel()
    padded = np.append(frames, 0)
    span = np.maximum.reduceat(padded, edges)[::2] - np.minimum.reduceat(padded, edges)[::2] if len(best) else best
    best = best[(span >= min_span_frames) | (votes[best] >= MANY_SHARED_PAIRS)]
    # The middle of the window.
    return Candidates(left[best], right[best], lag[best] + LAG_WINDOW_FRAMES // 2)


def align(left: NDArray[np.uint16], right: NDArray[np.uint16], lag: int) -> Alignment:
    """Compares two segments frame by frame at the best lag near a given one.

    Args:
        left: [F] the unit of each frame.
        right: [G] likewise.
        lag: Frames by which the right segment begins later (negative: earlier).
    """
    best = Alignment(0.0, 0)
    for tried in range(lag - LAG_SEARCH_FRAMES, lag + LAG_SEARCH_FRAMES + 1):
        start, end = max(0, tried), min(len(left), len(right) + tried)
        if end - start < min(MIN_OVERLAP_FRAMES, len(left), len(right)):
            continue
        ours, theirs = left[start:end], right[start - tried : end - tried]
        same = ours == theirs
        same[1:] |= ours[1:] == theirs[:-1]
        same[:-1] |= ours[:-1] == theirs[1:]
        if same.mean() > best.similarity:
            best = Alignment(float(same.mean()), end - start)
    return best


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mixes the bits of each hash, so that each depends on all of them (the finalizer of splitmix64)."""
    for shift, factor in _MIX:
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * factor
    return hashes ^ (hashes >> np.uint64(32))
