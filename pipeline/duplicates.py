"""Segments that say the very same thing twice: equal units with equal durations."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray


def find_exact(segments: Iterable[tuple[str, NDArray[np.uint16], NDArray[np.uint16]]]) -> dict[str, str]:
    """Segments that repeat an earlier one.

    At 25 Hz and hundreds of units no two recordings of natural speech coincide in every unit and duration, so an equal
    pair is one recording that came in twice. 16 bytes are kept per segment.

    Args:
        segments: (segment id, units [n], durations [n]) in an order that decides which copy stays: the first.

    Returns:
        The id of each repetition, and of the segment that it repeats.
    """
    first: dict[bytes, str] = {}
    twins = {}
    for segment_id, units, durations in segments:
        content = hashlib.blake2b(units.tobytes() + durations.tobytes(), digest_size=16).digest()
        if content in first:
            twins[segment_id] = first[content]
        else:
            first[content] = segment_id
    return twins
