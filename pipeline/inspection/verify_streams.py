"""Checks pitch and style of a sample: codes that the models have, as many as its units last; words cut where they say.

As in verify.py, each function yields a sentence per violation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.packing.streams import LENGTH_TOLERANCE_S, STREAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def verify_streams(where: str, arrays: dict[str, NDArray[Any]], num_frames: int, info: dict[str, Any]) -> Iterator[str]:
    """The pitch and style of one sample.

    Args:
        where: The sample, for sentences.
        arrays: Its members that are arrays, by name.
        num_frames: Its frames.
        info: What dataset.json says.
    """
    length_s = num_frames / float(info["frame_rate_hz"])
    for name in STREAMS:
        codes, rate_hz, num_codes = arrays[f"{name}.npy"], float(info[name]["rate_hz"]), int(info[name]["num_codes"])
        if codes.dtype != np.uint16 or codes.ndim != 1:
            yield f"{where}: {name} is {codes.dtype} {codes.shape}, not uint16"
            continue
        if abs(len(codes) / rate_hz - length_s) > 1 / rate_hz + LENGTH_TOLERANCE_S:
            yield f"{where} has {len(codes)} codes of {name}, but lasts {length_s:.2f} s"
        if len(codes) and codes.max() >= num_codes:
            yield f"{where}: {name} has code {codes.max()}, of a model of {num_codes}"
    if "cuts.npy" in arrays:
        yield from _verify_cuts(where, arrays["cuts.npy"], arrays["words.npy"], arrays["durations.npy"])


def _verify_cuts(where: str, cuts: NDArray[Any], table: NDArray[Any], durations: NDArray[Any]) -> Iterator[str]:
    """Whether each word begins in the unit that its row says, and the word before ends there."""
    if cuts.dtype != np.uint32 or cuts.shape != (len(table),):
        yield f"{where}: cuts are {cuts.dtype} {cuts.shape}, of {len(table)} words"
        return
    ends = np.cumsum(durations, dtype=np.int64)
    first = np.searchsorted(ends, cuts.astype(np.int64), side="right")
    end = np.searchsorted(ends, np.append(cuts[1:], ends[-1]).astype(np.int64) - 1, side="right") + 1
    if cuts[:1].any() or not np.array_equal(table[:, 1], first) or not np.array_equal(table[:, 2], end):
        yield f"{where}: its words do not begin at the frames that its cuts say"
