"""Tells units that are copies of others from units that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.packing.landmarks import align, landmark_pairs, vote
from pipeline.units.encode import run_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_UNITS = 100


def frames_of_speech(generator: np.random.Generator, num_frames: int) -> NDArray[np.uint16]:
    return np.repeat(
        generator.integers(0, NUM_UNITS, num_frames), generator.choice([1, 2, 3], num_frames, p=[0.6, 0.3, 0.1])
    )[:num_frames].astype(np.uint16)


def jittered(frames: NDArray[np.uint16], generator: np.random.Generator, errors: float) -> NDArray[np.uint16]:
    """Moves changes of unit by up to a frame, and gives some frames another unit."""
    moved = np.clip(np.arange(len(frames)) + generator.integers(-1, 2, len(frames)), 0, len(frames) - 1)
    changed = frames[np.where(generator.random(len(frames)) < 0.3, moved, np.arange(len(frames)))]
    wrong = generator.random(len(frames)) < errors
    return np.where(wrong, generator.integers(0, NUM_UNITS, len(frames)), changed).astype(np.uint16)


def landmarks(segments: list[NDArray[np.uint16]], landmark_units: int = 2):
    runs = [run_lengths(frames) for frames in segments]
    owners = np.repeat(np.arange(len(runs)), [len(units) for units, _ in runs])
    units, durations = (np.concatenate([run[i] for run in runs]) for i in (0, 1))
    return landmark_pairs(owners, units, durations, landmark_units, 4)


def test_landmarks_of_a_segment_do_not_depend_on_its_neighbours() -> None:
    generator = np.random.default_rng(0)
    segments = [frames_of_speech(generator, int(length)) for length in generator.integers(3, 200, 20)]
    together = landmarks(segments)
    for number, frames in enumerate(segments):
        alone = landmarks([frames])
        mine = together.owners == number
        assert sorted(zip(alone.keys.tolist(), alone.frames.tolist(), strict=True)) == sorted(
            zip(together.keys[mine].tolist(), together.frames[mine].tolist(), strict=True)
        )


def test_a_shifted_excerpt_has_the_same_landmarks_shifted() -> None:
    frames = frames_of_speech(np.random.default_rng(0), 600)
    whole, part = landmarks([frames]), landmarks([frames[200:500]])
    at = set(zip(whole.keys.tolist(), whole.frames.tolist(), strict=True))
    shared = [(key, frame + 200) in at for key, frame in zip(part.keys.tolist(), part.frames.tolist(), strict=True)]
    assert len(shared) > 100
    assert np.mean(shared) > 0.95, "but for what the cut makes of the first and last unit"


@given(lag=st.integers(-300, 300), seed=st.integers(0, 20))
def test_a_copy_is_aligned_wherever_it_begins(lag: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    source = frames_of_speech(generator, 1000)
    left, right = source[300:700], jittered(source, generator, 0.05)[300 + lag : 700 + lag]
    found = align(left, right, lag + int(generator.integers(-2, 3)))
    assert found.similarity > 0.75
    assert found.overlap_frames == pytest.approx(400 - abs(lag), abs=5)
    assert align(left, frames_of_speech(generator, 400), lag).similarity < 0.3


def test_votes_find_the_copy_among_others_and_its_lag() -> None:
    generator = np.random.default_rng(1)
    source = frames_of_speech(generator, 1000)
    segments = [source[0:500], *(frames_of_speech(generator, 500) for _ in range(30)), source[230:730]]
    pairs = landmarks(segments)
    order = np.argsort(pairs.keys, kind="stable")
    keys, owners, frames = pairs.keys[order], pairs.owners[order], pairs.frames[order]
    left, right = np.nonzero(np.triu(keys[:, None] == keys[None, :], 1) & (owners[:, None] != owners[None, :]))
    found = vote(
        owners[left], owners[right], frames[left] - frames[right], frames[left], min_votes=3, min_span_frames=40
    )
    assert (0, 31) in set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert len(found.left) <= 3
    lag = found.lag[found.right == 31][0]
    assert abs(lag - 230) <= 1


def test_a_short_phrase_in_common_is_no_candidate_but_a_long_one_is() -> None:
    def candidates(frames: list[int]) -> int:
        left = np.zeros(len(frames), np.int64)
        lags = np.full(len(frames), -7)
        return len(vote(left, left + 1, lags, np.array(frames), min_votes=3, min_span_frames=40).left)

    assert candidates([10, 20, 30, 45]) == 0
    assert candidates([10, 20, 50]) == 1
    assert candidates([10, 50]) == 0
    assert candidates(list(range(12))) == 1


def test_nothing_gives_nothing() -> None:
    none = np.empty(0, np.int64)
    assert len(landmarks([np.array([1], np.uint16)]).keys) == 0
    assert len(vote(none, none, none, none, min_votes=3, min_span_frames=40).left) == 0
    assert align(np.array([1, 2], np.uint16), np.array([3], np.uint16), 50).overlap_frames == 0
