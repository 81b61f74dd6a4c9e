"""How much of a recording's prosody is in what was said again from it: its melody, its loudness, its pace.

Both are compared frame by frame, 200 a second, on the time of the recording: what lasts longer or shorter is stretched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    # F0 in Hz of each frame of 80 samples of wav [S] at 16 kHz, 0 where it is unvoiced: [S // 80].
    F0 = Callable[[NDArray[np.float32]], NDArray[np.float32]]

HOP_SAMPLES = 80
FRAME_RATE_HZ = SAMPLE_RATE_HZ / HOP_SAMPLES
# Samples over which energy is told: 25 ms.
WINDOW_SAMPLES = 400
# Frames this far below the loudest are silence, in which loudness says nothing.
SILENCE_DB = -50.0
# Frames of which both are voiced, without which melodies are not compared: 0.1 s.
FEWEST_FRAMES = 20
# Source: Chu and Alwan 2009 (F0 frame error): an F0 that is further off is wrong.
GROSS_ERROR = 0.2
# A syllable is a peak of energy, smoothed over so many frames, this far above the dip before it.
SMOOTHED_FRAMES = 15
DIP_DB = 2.0


@dataclass(frozen=True)
class Likeness:
    """How alike two clips are; None where there is nothing to compare.

    Attributes:
        f0_correlation: Of log F0, over the frames in which both are voiced.
        f0_error_cents: Root of the mean squared difference of log F0 there, each less its mean: errors of melody.
        f0_frame_error: Share of frames of which one is voiced and the other is not, or whose F0 is 20% off.
        energy_correlation: Of loudness in dB, over the frames that are not silence in the recording.
        syllable_rates_hz: Peaks of loudness a second in the recording, and in what was said.
    """

    f0_correlation: float | None
    f0_error_cents: float | None
    f0_frame_error: float | None
    energy_correlation: float | None
    syllable_rates_hz: tuple[float, float]


def likeness(recorded: NDArray[np.float32], said: NDArray[np.float32], f0_of: F0) -> Likeness:
    """Compares what was said, wav [S'] at 16 kHz, with the recording, wav [S].

    Args:
        recorded: The recording.
        said: What was made of it.
        f0_of: Finds F0.
    """
    f0, energy_db = f0_of(recorded), loudness_db(recorded)
    num_frames = min(len(f0), len(energy_db))
    f0, energy_db = f0[:num_frames], energy_db[:num_frames]
    other_f0, other_energy_db = _stretched(f0_of(said), num_frames), _stretched(loudness_db(said), num_frames)
    both = (f0 > 0) & (other_f0 > 0)
    correlation = error_cents = None
    if both.sum() >= FEWEST_FRAMES:
        ours, theirs = (np.log2(each[both].astype(np.float64)) for each in (f0, other_f0))
        correlation = _correlation(ours, theirs)
        error_cents = float(1200 * np.std(ours - theirs))
    frame_error = None
    if num_frames:
        is_off = both & (np.abs(other_f0 - f0) > GROSS_ERROR * f0)
        frame_error = float((((f0 > 0) != (other_f0 > 0)) | is_off).mean())
    is_loud = energy_db > energy_db.max(initial=-np.inf) + SILENCE_DB
    energy = _correlation(energy_db[is_loud], other_energy_db[is_loud]) if is_loud.sum() >= FEWEST_FRAMES else None
    return Likeness(correlation, error_cents, frame_error, energy, (syllable_rate_hz(recorded), syllable_rate_hz(said)))


def loudness_db(wav: NDArray[np.float32]) -> NDArray[np.float64]:
    """The loudness of each frame of 80 samples of wav [S] in dB, [S // 80]."""
    num_frames = len(wav) // HOP_SAMPLES
    if not num_frames:
        return np.zeros(0)
    padded = np.pad(wav.astype(np.float64) ** 2, WINDOW_SAMPLES // 2)
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    starts = np.arange(num_frames) * HOP_SAMPLES + HOP_SAMPLES // 2
    power = np.maximum(sums[starts + WINDOW_SAMPLES] - sums[starts], 0) / WINDOW_SAMPLES
    found: NDArray[np.float64] = 10 * np.log10(power + 1e-10)
    return found


def syllable_rate_hz(wav: NDArray[np.float32]) -> float:
    """Peaks of loudness a second, which go with syllables: a pace that needs no words.

    Source: de Jong and Wempe 2009, without their check of voicing.
    """
    energy_db = loudness_db(wav)
    if len(energy_db) < SMOOTHED_FRAMES:
        return 0.0
    smooth = np.convolve(energy_db, np.hanning(SMOOTHED_FRAMES) / np.hanning(SMOOTHED_FRAMES).sum(), "same")
    threshold = np.max(smooth) - 25.0
    peaks, lowest, highest = 0, np.inf, -np.inf
    for value in smooth:
        if highest == -np.inf:  # going down, or not yet far enough up
            lowest = min(lowest, value)
            if value > lowest + DIP_DB:
                highest = value
        else:
            highest = max(highest, value)
            if value < highest - DIP_DB:
                peaks += bool(highest > threshold)
                lowest, highest = value, -np.inf
    return peaks / (len(energy_db) / FRAME_RATE_HZ)


def _stretched(values: NDArray[np.floating], length: int) -> NDArray[np.float64]:
    """Values [n] as [length]: of each frame that at its time, as what is unvoiced has no values between."""
    if not len(values):
        return np.zeros(length)
    places = ((np.arange(length) + 0.5) * len(values) / max(length, 1)).astype(np.int64)
    found: NDArray[np.float64] = values[np.minimum(places, len(values) - 1)].astype(np.float64)
    return found


def _correlation(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float | None:
    """Pearson's; 0 where the second does not change, None where the first does not."""
    if np.std(ours) < 1e-9:
        return None
    return 0.0 if np.std(theirs) < 1e-9 else float(np.corrcoef(ours, theirs)[0, 1])
