"""F0 by normalized cross-correlation and dynamic programming, over a clip at once.

1. The clip is halved to 8 kHz and limited to the band in which the first harmonics lie.
2. Each frame of 5 ms is correlated with itself at every lag of a period; the highest peaks are its candidates.
3. Frames that are surely periodic tell the clip's usual pitch. Without it, loud vowels whose first formant lies on a
   harmonic are heard at that harmonic, two octaves above the voice.
4. Of all paths through candidates and silence, the cheapest: it changes pitch smoothly, voicing seldom, and keeps near
   the usual pitch.

Some thirty times as fast as YAAPT; how near both come to a known pitch stands in docs/performance.md. A clip is worked
on alone, so that what is found does not depend on what else is in a batch.

Source: Talkin 1995, "A robust algorithm for pitch tracking (RAPT)", sections 3 and 4, with one pass in place of two.
The range about a clip's own pitch: De Looze & Hirst 2008, "Detecting changes in key and range", with soft bounds here.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import soxr

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 8_000
HOP = 40
LOWEST_HZ, HIGHEST_HZ = 55.0, 600.0
MIN_LAG = int(RATE_HZ / HIGHEST_HZ)
MAX_LAG = int(np.ceil(RATE_HZ / LOWEST_HZ))
WINDOW = 200
FFT = 512
BAND_HZ = (50.0, 1200.0)
NUM_TAPS = 101
# Frames far below this share of the clip's peak correlate little, whatever is in them.
FLOOR = 0.005
NUM_CANDIDATES = 6
LAG_WEIGHT = 0.25
UNVOICED_BIAS = 0.05
FREQUENCY_COST = 3.0
OCTAVE_COST = 0.25
VOICING_COST = 0.6
# What a candidate costs per octave that it is further than so many from the clip's usual pitch.
RANGE_COST, FREE_OCTAVES = 1.0, 0.75
# The usual pitch is told by frames that correlate so much, if there are so many.
SURE_MERIT, FEWEST_SURE = 0.85, 20
# Changes when F0 does, with which codes of pitch change too.
VERSION = 2
# Bounds the memory of the correlations: so many frames at a time.
FRAMES_AT_ONCE = 4000


def track(wav: NDArray[np.float32], num_frames: int) -> NDArray[np.float32]:
    """The F0 of each frame of 80 samples.

    Args:
        wav: [S] at 16 kHz.
        num_frames: T, at most S // 80.

    Returns:
        [T] in Hz; 0 where the frame is unvoiced.
    """
    if num_frames == 0:
        return np.zeros(0, np.float32)
    halved = soxr.resample(np.asarray(wav, np.float64), 16_000, RATE_HZ, "HQ")
    filtered = np.convolve(halved, _band_pass(), "same")
    loudest = np.abs(filtered).max(initial=0.0)
    if loudest == 0:
        return np.zeros(num_frames, np.float32)
    parts = [
        _candidates(filtered / loudest, start, min(start + FRAMES_AT_ONCE, num_frames))
        for start in range(0, num_frames, FRAMES_AT_ONCE)
    ]
    lags, merits = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _cheapest_path(lags, merits)


@functools.cache
def _band_pass() -> NDArray[np.float64]:
    time = np.arange(NUM_TAPS) - NUM_TAPS // 2
    low, high = (2 * edge / RATE_HZ * np.sinc(2 * edge / RATE_HZ * time) for edge in BAND_HZ)
    taps = (high - low) * np.hamming(NUM_TAPS)
    return np.asarray(taps, np.float64)


def _candidates(wav: NDArray[np.float64], start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lags in samples and correlations [T, C] of the highest peaks of frames `start` to `stop`; correlation 0: none."""
    span = WINDOW + MAX_LAG
    # Both windows together lie around the middle of the frame.
    before = span // 2 - HOP // 2
    first, last = start * HOP - before, (stop - 1) * HOP - before + span
    piece = np.pad(wav[max(first, 0) : max(last, 0)], (max(-first, 0), max(0, last - max(len(wav), 0))))
    frames = np.lib.stride_tricks.sliding_window_view(piece, span)[::HOP][: stop - start]
    frames = frames - frames.mean(axis=1, keepdims=True)
    left = np.fft.rfft(frames[:, :WINDOW], FFT)
    # Twice as long, which interpolates: short periods are a few samples, and peaks between two of them would look low.
    products = 2 * np.fft.irfft(left.conj() * np.fft.rfft(frames, FFT), 2 * FFT)[:, 2 * MIN_LAG - 1 : 2 * MAX_LAG + 2]
    sums = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    energies = sums[:, WINDOW:] - sums[:, :-WINDOW]
    floor = (WINDOW * FLOOR**2) ** 2
    energies = np.repeat(energies, 2, axis=1)[:, 2 * MIN_LAG - 1 : 2 * MAX_LAG + 2] * energies[:, :1]
    correlation = products / np.sqrt(energies + floor)
    here, left_of, right_of = correlation[:, 1:-1], correlation[:, :-2], correlation[:, 2:]
    heights = np.where((here > left_of) & (here >= right_of), here, -1.0)
    best = np.argpartition(-heights, NUM_CANDIDATES, axis=1)[:, :NUM_CANDIDATES]
    best.sort(axis=1)
    rows = np.arange(len(frames))[:, None]
    # The vertex of the parabola through a peak and its neighbours.
    a, b, c = left_of[rows, best], here[rows, best], right_of[rows, best]
    curvature = np.minimum(a - 2 * b + c, -1e-12)
    shift = np.clip(0.5 * (a - c) / curvature, -0.5, 0.5)
    is_peak = heights[rows, best] > 0
    return MIN_LAG + (best + shift) / 2, np.where(is_peak, np.minimum(b - 0.25 * (a - c) * shift, 1.0), 0.0)


def _range_costs(
    lags: NDArray[np.float64], merits: NDArray[np.float64], weighted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What candidates [T, C] cost for being far from the clip's usual pitch; nothing where that is not known."""
    frames, best = np.arange(len(lags)), weighted.argmax(axis=1)
    is_sure = merits[frames, best] > SURE_MERIT
    if is_sure.sum() < FEWEST_SURE:
        return np.zeros_like(lags)
    usual = np.median(lags[frames, best][is_sure])
    costs: NDArray[np.float64] = RANGE_COST * np.maximum(0.0, np.abs(np.log2(lags / usual)) - FREE_OCTAVES)
    return costs


def _cheapest_path(lags: NDArray[np.float64], merits: NDArray[np.float64]) -> NDArray[np.float32]:
    """The F0 [T] along the cheapest path; the last state of each frame is silence."""
    num_frames, num_candidates = lags.shape
    costs = np.full((num_frames, num_candidates + 1), 2.0)
    weighted = merits * (1 - LAG_WEIGHT * lags / MAX_LAG)
    costs[:, :-1] = np.where(merits > 0, 1 - weighted, 2.0) + _range_costs(lags, merits, weighted)
    costs[:, -1] = UNVOICED_BIAS + merits.max(axis=1)
    logs = np.log2(lags)
    steps = np.abs(logs[1:, None, :] - logs[:-1, :, None])
    moves = np.full((num_frames, num_candidates + 1, num_candidates + 1), VOICING_COST)
    # [t, to, from]
    moves[1:, :-1, :-1] = (FREQUENCY_COST * np.minimum(steps, OCTAVE_COST + np.abs(steps - 1))).transpose(0, 2, 1)
    moves[:, -1, -1] = 0.0
    came_from = np.zeros((num_frames, num_candidates + 1), np.int64)
    total = costs[0]
    states = np.arange(num_candidates + 1)
    for frame in range(1, num_frames):
        through = moves[frame] + total
        came_from[frame] = source = through.argmin(axis=1)
        total = through[states, source] + costs[frame]
    f0 = np.zeros(num_frames)
    state = int(total.argmin())
    for frame in range(num_frames - 1, -1, -1):
        if state < num_candidates:
            f0[frame] = RATE_HZ / lags[frame, state]
        state = came_from[frame, state]
    return f0.astype(np.float32)
