"""Finds segments whose units show that they are not speech: music, hum, silence or noise that passed for speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.packing.config import DegenerateConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray


def degenerate(
    owner: NDArray[np.int64],
    units: NDArray[np.uint16],
    durations: NDArray[np.uint16],
    durations_s: NDArray[np.float64],
    config: DegenerateConfig,
) -> dict[int, str]:
    """Finds degenerate segments.

    Args:
        owner: [n] the segment of each unit, ascending.
        units: [n].
        durations: [n] in frames.
        durations_s: [segments] in seconds.
        config: The bounds.

    Returns:
        By segment: the figure that is out of bounds, as text.
    """
    found: dict[int, str] = {}
    if all(bound is None for bound in vars(config).values()) or not len(units):
        return found
    num_segments = len(durations_s)
    counts = np.bincount(owner, minlength=num_segments)
    per_s = counts / np.maximum(durations_s, 1e-9)
    kinds, kind_of = np.unique(owner * 2**16 + units, return_inverse=True)
    kind_owner = kinds // 2**16
    frames = np.bincount(kind_of, durations)
    share = np.zeros(num_segments)
    np.maximum.at(share, kind_owner, frames / np.bincount(owner, durations, num_segments)[kind_owner])
    shares = np.bincount(kind_of) / counts[kind_owner]
    entropy = np.bincount(kind_owner, -shares * np.log2(shares), num_segments)

    def tell(is_out: NDArray[np.bool_], values: NDArray[Any], text: str) -> None:
        for segment in np.flatnonzero(is_out & (counts > 0)).tolist():
            found.setdefault(segment, text.format(values[segment]))

    if config.max_unit_share is not None:
        tell(share > config.max_unit_share, 100 * share, "one unit for {:.0f}% of its length")
    if config.min_entropy_bits is not None:
        tell(entropy < config.min_entropy_bits, entropy, "{:.2f} bits of unit entropy")
    if config.min_units_per_s is not None:
        tell(per_s < config.min_units_per_s, per_s, "{:.1f} units a second")
    if config.max_units_per_s is not None:
        tell(per_s > config.max_units_per_s, per_s, "{:.1f} units a second")
    return found
