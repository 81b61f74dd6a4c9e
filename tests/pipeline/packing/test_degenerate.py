from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import TwistError
from pipeline.packing.config import DegenerateConfig
from pipeline.packing.degenerate import degenerate

OFF = DegenerateConfig(max_unit_share=None, min_entropy_bits=None, min_units_per_s=None)


def found(
    segments: list[tuple[list[int], list[int]]], config: DegenerateConfig, frame_rate_hz: float = 25.0
) -> dict[int, str]:
    owners = np.repeat(np.arange(len(segments)), [len(units) for units, _ in segments])
    units, durations = (np.concatenate([np.array(s[i], np.uint16) for s in segments]) for i in (0, 1))
    durations_s = np.array([sum(lengths) / frame_rate_hz for _, lengths in segments])
    return degenerate(owners, units, durations, durations_s, config)


def speech(num_units: int, seconds: float, seed: int, codebook: int = 100) -> tuple[list[int], list[int]]:
    """Units with the frequencies of speech: some four times as frequent as the middle, pauses up to a second."""
    generator = np.random.default_rng(seed)
    weights = generator.gamma(1.0, size=codebook)
    units = generator.choice(codebook, num_units, p=weights / weights.sum())
    units = units[np.concatenate([[True], units[1:] != units[:-1]])]
    durations = generator.geometric(len(units) / (25 * seconds), len(units))
    return units.tolist(), durations.tolist()


@pytest.mark.parametrize("codebook", [100, 200, 500])
def test_speech_is_not_degenerate_by_default(codebook: int) -> None:
    segments = [
        speech(int(17 * seconds), seconds, seed, codebook) for seed, seconds in enumerate([2, 3, 5, 10, 25] * 40)
    ]
    assert found(segments, DegenerateConfig()) == {}


def test_each_bound_drops_what_is_out_of_it_and_says_why() -> None:
    normal = speech(170, 10, 0)
    hum = ([1, 2, 1, 2, 3, 1], [200, 1, 200, 1, 1, 60])
    two = ([1, 2] * 50, [2, 3] * 50)
    few = ([1, 2, 3, 4, 5, 6, 7, 8], [60, 50, 70, 50, 60, 50, 60, 50])
    many = (list(range(100)), [1] * 100)
    segments = [normal, hum, two, few, many]
    assert found(segments, OFF) == {}
    assert found(segments, DegenerateConfig(0.7, None, None)) == {1: "one unit for 99% of its length"}
    assert found(segments, DegenerateConfig(None, 1.5, None)) == {
        1: "1.46 bits of unit entropy",
        2: "1.00 bits of unit entropy",
    }
    assert found(segments, DegenerateConfig(None, None, 2.0)) == {
        1: "0.3 units a second",
        3: "0.4 units a second",
    }
    assert found(segments, DegenerateConfig(None, None, None, 24.0)) == {4: "25.0 units a second"}


@pytest.mark.parametrize(
    "settings", [{"max_unit_share": -1.0}, {"min_entropy_bits": float("nan")}, {"max_units_per_s": 1.0}], ids=str
)
def test_impossible_bounds_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match="degenerate"):
        DegenerateConfig(**settings)
