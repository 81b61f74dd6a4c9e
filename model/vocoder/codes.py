"""Codes of pitch and style beside units: one lasts several frames, at a rate of its own.

Source: SpiRit-LM's vocoder repeats codes by the ratio of hops (2 for pitch at 12.5 Hz, 25 for style at 1 Hz), and pads
them with the last, or cuts them, to the number of frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def codes_of_frames(codes: NDArray[np.integer], frames_per_code: int, num_frames: int, name: str) -> NDArray[np.int64]:
    """The code of each frame, [num_frames].

    Args:
        codes: [n], from the beginning of the clip on.
        frames_per_code: How long one lasts.
        num_frames: Of the clip.
        name: pitch or style, for the error.

    Raises:
        TwistError: there are so few or so many that they are another clip's.
    """
    # Encoders count the frames at a clip's edges otherwise; more than that is no rounding.
    if num_frames and abs(len(codes) * frames_per_code - num_frames) > 2 * frames_per_code:
        raise TwistError(
            f"{len(codes)} codes of {name} last {len(codes) * frames_per_code} frames, but the units {num_frames}: "
            f"they are not of one clip"
        )
    if not num_frames:
        return np.zeros(0, np.int64)
    if not len(codes):
        raise TwistError(f"there is no code of {name} for {num_frames} frames")
    places = np.minimum(np.arange(num_frames) // frames_per_code, len(codes) - 1)
    found: NDArray[np.int64] = codes[places].astype(np.int64)
    return found
