"""Statistics that descriptions are made of: quantiles, histograms, and how often units occur."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from numpy.typing import NDArray

NUM_BINS = 60
# Read speech has -20 to -30 dBFS; without `encoder.level_dbfs`, the units of a tokenizer may change with the level.
QUIET_DBFS = (-35, -45)
# TWIST (Table 1) and later work: units an hour of speech, for 25 Hz HuBERT and a codebook of 500.
SANE_UNITS_PER_HOUR = (55_000, 72_000)


def quantiles(values: NDArray[Any]) -> dict[str, float]:
    """Five quantiles by name; none of no values."""
    names = ("min", "p10", "median", "p90", "max")
    return dict(zip(names, np.quantile(values, (0, 0.1, 0.5, 0.9, 1)).tolist(), strict=True)) if len(values) else {}


def bins(values: NDArray[Any]) -> dict[str, list[float]]:
    """How many values lie between one edge and the next."""
    counts, edges = np.histogram(values, bins=NUM_BINS)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def levels(counts: Mapping[str, int]) -> dict[str, Any]:
    """The median level and the shares of quiet segments, from how many have each whole dBFS; nothing of none."""
    if not counts:
        return {}
    dbfs = np.array(sorted(int(level) for level in counts))
    numbers = np.array([counts[str(level)] for level in dbfs])
    median = int(dbfs[np.searchsorted(numbers.cumsum(), numbers.sum() / 2)])
    below = {str(level): float(numbers[dbfs < level].sum() / numbers.sum()) for level in QUIET_DBFS}
    return {"median_dbfs": median, "share_below_dbfs": below}


def most_common(counts: Counter[Any]) -> dict[str, int]:
    """Counts by value, the largest first, equal ones by name."""
    return {str(value): count for value, count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))}


def count_units(units: NDArray[np.uint16], codebook_size: int, where: str) -> NDArray[np.int64]:
    """How often each unit occurs, [codebook_size].

    Raises:
        TwistError: a unit is out of range; `where` names the file.
    """
    counts = np.bincount(units, minlength=codebook_size)
    if len(counts) > codebook_size:
        raise TwistError(
            f"{where} holds unit {len(counts) - 1}, the codebook only {codebook_size} units; `twist inspect --verify` "
            f"says what else is wrong"
        )
    return counts


def unit_statistics(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Entropy, unused and most frequent units, from how often each occurs [codebook_size]."""
    shares = counts[counts > 0] / max(1, counts.sum())
    entropy_bits = float(-(shares * np.log2(shares)).sum())
    order = np.argsort(-counts, kind="stable")
    return {
        "unit_entropy_bits": entropy_bits,
        "unit_perplexity": 2**entropy_bits,
        "unused_units": int((counts == 0).sum()),
        "most_frequent_units": [{"unit": int(u), "share": float(counts[u] / max(1, counts.sum()))} for u in order[:5]],
        "unit_histogram": counts.tolist(),
    }


def remarks(encoder: dict[str, Any], codebook_size: int, units_per_hour: float) -> list[str]:
    """A warning where an encoder whose usual rate is known gives another."""
    low, high = SANE_UNITS_PER_HOUR
    is_known = encoder["name"] == "hubert" and encoder["frame_rate_hz"] == 25 and codebook_size == 500
    if not is_known or low <= units_per_hour <= high:
        return []
    return [
        f"{units_per_hour:,.0f} units an hour are unusual, speech gives {low:,} to {high:,}: do the segments hold "
        f"speech, and are the encoder's layer and normalization those of its checkpoint?"
    ]
