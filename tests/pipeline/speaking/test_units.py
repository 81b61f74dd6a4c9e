"""Units of a clip: durations, times, parts and sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TwistError
from pipeline.speaking.units import Units, require_codebook


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50))
def test_units_hold_exactly_the_frames_that_they_were_made_of(frames: list[int]) -> None:
    units = Units.of_frames(np.array(frames, np.uint16), 25.0)
    np.testing.assert_array_equal(units.frames, frames)
    assert (units.values[1:] != units.values[:-1]).all(), "equal neighbours must be one unit"
    assert units.duration_s == len(frames) / 25.0
    np.testing.assert_array_equal(units.start_s[1:], units.end_s[:-1])
    assert units.start_s[0] == 0.0


@given(st.integers(0, 6))
def test_parts_put_together_are_the_whole(place: int) -> None:
    units = Units(np.arange(6, dtype=np.uint16), np.arange(1, 7, dtype=np.uint16), 50.0, "book")
    whole = units[:place] + units[place:]
    np.testing.assert_array_equal(whole.values, units.values)
    np.testing.assert_array_equal(whole.end_s, units.end_s)
    assert (whole.frame_rate_hz, whole.codebook_fingerprint) == (50.0, "book")


def test_where_a_part_has_no_durations_the_whole_has_none() -> None:
    known, unknown = Units(np.array([1, 2], np.uint16), np.array([3, 4], np.uint16)), Units(np.array([5], np.uint16))
    assert (known + unknown).durations is None
    with pytest.raises(TwistError, match="no durations"):
        _ = (known + unknown).start_s


def test_units_of_two_codebooks_are_kept_apart() -> None:
    ours = Units(np.array([1], np.uint16), codebook_fingerprint="ours")
    with pytest.raises(TwistError, match="from codebook theirs, but those before them from ours"):
        _ = ours + Units(np.array([1], np.uint16), codebook_fingerprint="theirs")
    require_codebook(Units(np.array([1], np.uint16)), "ours", "")  # units that do not name their codebook are accepted


@pytest.mark.parametrize(("durations", "words"), [([1], "1 durations for 2 units"), ([1, 0], "at least one frame")])
def test_durations_that_do_not_fit_are_refused(durations: list[int], words: str) -> None:
    with pytest.raises(TwistError, match=words):
        Units(np.array([1, 2], np.uint16), np.array(durations, np.uint16))
