"""F0 by YAAPT, on which the published pitch tokenizer was trained; needs the extra `pitch`.

Source: Kasi and Zahorian 2002, "Yet another algorithm for pitch tracking"; the library is AMFM-decompy (MIT). Peak
level, padding and options are those with which the published tokenizer calls it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PEAK = 0.95
PADDING = 160
OPTIONS = {"frame_length": 20.0, "frame_space": 5.0, "nccf_thresh1": 0.25, "tda_frame_length": 25.0}


def require() -> None:
    """Raises TwistError unless the library can be imported."""
    try:
        import amfm_decompy.pYAAPT  # noqa: F401
    except ImportError as error:
        raise TwistError(
            f"pitch by YAAPT needs AMFM-decompy, which cannot be imported ({error}); install the extra: "
            f"pip install 'twist-pipeline[pitch]', or take the extractor nccf"
        ) from error


def track(wav: NDArray[np.float32], num_frames: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The F0 of each frame of 80 samples, and whether it is loud enough to be voiced.

    Args:
        wav: [S] at 16 kHz.
        num_frames: T, at most S // 80.

    Returns:
        F0 [T] in Hz, 0 where there is none; and the library's own decision on voicing [T], which is one on energy, so
        that the two may differ.
    """
    require()
    from amfm_decompy.basic_tools import SignalObj
    from amfm_decompy.pYAAPT import yaapt

    f0, is_voiced = np.zeros(num_frames, np.float32), np.zeros(num_frames, np.bool_)
    samples = np.asarray(wav[: num_frames * 80], np.float64)
    peak = np.abs(samples).max(initial=0.0)
    if peak == 0.0:
        return f0, is_voiced
    signal = SignalObj(np.pad(samples / peak * PEAK, PADDING), 16_000)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = yaapt(signal, **OPTIONS)
        except (IndexError, ValueError, ZeroDivisionError):  # what it does where no frame is voiced
            return f0, is_voiced
    values = np.nan_to_num(np.asarray(found.samp_values, np.float32))
    length = min(num_frames, len(values), len(found.vuv))
    f0[:length] = values[:length]
    is_voiced[:length] = found.vuv[:length]
    return f0, is_voiced
