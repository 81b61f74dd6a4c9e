"""Finds evaluation speech in training segments by its units, wherever in a segment it begins.

The landmarks (landmarks.py) of all evaluation sets (evaluation_speech.py) make a small index that every task loads.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.files import storage
from pipeline.packing.landmarks import MIN_SHARED_PAIRS, align, landmark_pairs, vote

if TYPE_CHECKING:
    from numpy.typing import NDArray

# More pairs than between segments: evaluation sets are small, and their clips short.
LANDMARK_UNITS, PAIRS_PER_LANDMARK = 2, 12


@dataclass(frozen=True)
class Clip:
    """One clip of an evaluation set: units [n] without repeats, durations [n] in frames, and its set's thresholds."""

    name: str
    units: NDArray[np.uint16]
    durations: NDArray[np.uint16]
    min_similarity: float
    min_overlap: float


@dataclass(frozen=True)
class EvaluationIndex:
    """The clips, and their pairs of landmarks: key, owner (index of the clip) and frame [m], sorted by key."""

    clips: list[Clip]
    keys: NDArray[np.uint64]
    owners: NDArray[np.int64]
    frames: NDArray[np.int64]

    @classmethod
    def of(cls, clips: list[Clip]) -> EvaluationIndex:
        """Builds the index of these clips."""
        owners = np.repeat(np.arange(len(clips)), [len(clip.units) for clip in clips])
        units, durations = (
            np.concatenate([np.empty(0, np.uint16), *(getattr(clip, name) for clip in clips)])
            for name in ("units", "durations")
        )
        found = landmark_pairs(owners, units, durations, LANDMARK_UNITS, PAIRS_PER_LANDMARK)
        order = np.argsort(found.keys, kind="stable")
        return cls(clips, found.keys[order], found.owners[order], found.frames[order])

    def save(self, uri: str) -> str:
        """Writes the clips to a file; returns their digest."""
        buffer = io.BytesIO()
        lengths = np.array([len(clip.units) for clip in self.clips], np.int64)
        units, durations = (
            np.concatenate([np.empty(0, np.uint16), *(getattr(clip, name) for clip in self.clips)])
            for name in ("units", "durations")
        )
        facts = [[clip.name, clip.min_similarity, clip.min_overlap] for clip in self.clips]
        told = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        np.savez(buffer, lengths=lengths, facts=told, units=units, durations=durations)
        storage.write_bytes(uri, buffer.getvalue())
        return self.digest()

    def digest(self) -> str:
        """A sha256 of the clips and their thresholds, in hex."""
        digest = hashlib.sha256()
        for clip in self.clips:
            digest.update(f"{clip.name}\0{clip.min_similarity}\0{clip.min_overlap}\0{len(clip.units)}\0".encode())
            digest.update(clip.units.tobytes() + clip.durations.tobytes())
        return digest.hexdigest()

    @classmethod
    def load(cls, uri: str) -> EvaluationIndex:
        """Reads the clips that `save` wrote and indexes them again."""
        with np.load(io.BytesIO(storage.read_bytes(uri))) as arrays:
            ends = np.cumsum(arrays["lengths"])[:-1]
            units, durations = (np.split(arrays[name], ends) for name in ("units", "durations"))
            facts = json.loads(arrays["facts"].tobytes())
        return cls.of([Clip(f[0], u, d, f[1], f[2]) for f, u, d in zip(facts, units, durations, strict=True)])


def contaminated(
    owners: NDArray[np.int64], units: NDArray[np.uint16], durations: NDArray[np.uint16], index: EvaluationIndex
) -> dict[int, str]:
    """Finds the segments that contain evaluation speech.

    Args:
        owners: [n] the segment of each unit, ascending.
        units: [n] without repeats.
        durations: [n] in frames.
        index: The evaluation sets.

    Returns:
        By segment: which clip it contains, and how similar it is, as text.
    """
    found = landmark_pairs(owners, units, durations, LANDMARK_UNITS, PAIRS_PER_LANDMARK)
    starts = np.searchsorted(index.keys, found.keys, side="left")
    counts = np.searchsorted(index.keys, found.keys, side="right") - starts
    ours = np.repeat(np.arange(len(counts)), counts)
    theirs = starts[ours] + np.arange(len(ours)) - np.repeat(np.cumsum(counts) - counts, counts)
    lags = found.frames[ours] - index.frames[theirs]
    proposed = vote(
        found.owners[ours],
        index.owners[theirs],
        lags,
        found.frames[ours],
        min_votes=MIN_SHARED_PAIRS[LANDMARK_UNITS],
        min_span_frames=0,
    )
    texts: dict[int, tuple[float, str]] = {}
    for segment, number, lag in zip(*(values.tolist() for values in vars(proposed).values()), strict=True):
        clip = index.clips[number]
        start, end = np.searchsorted(owners, [segment, segment + 1])
        frames, clip_frames = np.repeat(units[start:end], durations[start:end]), np.repeat(clip.units, clip.durations)
        alignment = align(frames, clip_frames, lag)
        wanted = clip.min_overlap * min(len(frames), len(clip_frames))
        if alignment.similarity < clip.min_similarity or alignment.overlap_frames < wanted:
            continue
        if alignment.similarity > texts.get(segment, (0.0, ""))[0]:
            texts[segment] = alignment.similarity, f"speech of {clip.name}, similarity {alignment.similarity:.2f}"
    return {segment: text for segment, (_, text) in texts.items()}
