"""Which units are pauses, by how loud recordings are where they stand."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.speaking.units import Units

# A frame is quiet if it is so far below the loud ones of its clip. Vowels and most consonants are within 30 dB.
QUIET_DB = 35.0
LOUD_SHARE = 0.9
# A unit is a pause if so many of its frames are quiet.
QUIET_SHARE = 0.5


def pause_units(wavs: Sequence[NDArray[np.float32]], units: Sequence[Units]) -> tuple[int, ...]:
    """The units most of whose frames are quiet, rising; none if these clips have no pauses.

    Args:
        wavs: Clips at 16 kHz, [S] each.
        units: Their units, with durations.
    """
    seen: Counter[int] = Counter()
    quiet: Counter[int] = Counter()
    for wav, of_clip in zip(wavs, units, strict=True):
        levels_db = _levels_db(wav, len(of_clip.frames), of_clip.frame_rate_hz)
        is_quiet = levels_db < np.quantile(levels_db, LOUD_SHARE) - QUIET_DB
        seen.update(of_clip.frames.tolist())
        quiet.update(of_clip.frames[is_quiet].tolist())
    return tuple(sorted(unit for unit in quiet if quiet[unit] >= QUIET_SHARE * seen[unit]))


def _levels_db(wav: NDArray[np.float32], num_frames: int, frame_rate_hz: float) -> NDArray[np.float64]:
    """The level of each frame, [F]."""
    edges = np.round(np.arange(num_frames + 1) * SAMPLE_RATE_HZ / frame_rate_hz).astype(int).clip(max=len(wav))
    power = np.concatenate([[0.0], np.cumsum(np.square(wav, dtype=np.float64))])[edges]
    mean_power: NDArray[np.float64] = np.diff(power).clip(min=0) / np.diff(edges).clip(min=1)
    return 10 * np.log10(mean_power + 1e-12)
