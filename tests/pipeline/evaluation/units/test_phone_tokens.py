"""Tokens of phones: which frames they have, by both rules, and what makes a triphone."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TwistError
from pipeline.evaluation.units.alignments import SILENCE, Interval
from pipeline.evaluation.units.phone_tokens import PhoneToken, cut, frame_span, read_items, tokens_of

milliseconds = st.integers(0, 3000)


@given(start_ms=milliseconds, length_ms=milliseconds, rate_hz=st.sampled_from([25, 50, 100]))
def test_a_token_has_the_frames_whose_middles_lie_in_it(start_ms, length_ms, rate_hz):
    end_ms = start_ms + length_ms
    middles_ms = [Fraction(1000 * (2 * frame + 1), 2 * rate_hz) for frame in range(60)]
    expected = [frame for frame, middle_ms in enumerate(middles_ms) if start_ms <= middle_ms <= end_ms]
    of_token = range(60)[frame_span(start_ms / 1000, end_ms / 1000, rate_hz, 60, "inclusive")]
    assert list(of_token) == expected


@given(start_ms=milliseconds, length_ms=milliseconds)
def test_libri_light_leaves_out_the_last_frame(start_ms, length_ms):
    times_s = (start_ms / 1000, (start_ms + length_ms) / 1000)
    whole, shorter = (range(1000)[frame_span(*times_s, 25, 1000, rule)] for rule in ("inclusive", "libri-light"))
    assert list(shorter) == list(whole)[:-1]
    exact = (Fraction(start_ms, 1000) * 25 - Fraction(1, 2), Fraction(start_ms + length_ms, 1000) * 25 - Fraction(1, 2))
    assert list(shorter) == list(range(max(0, math.ceil(exact[0])), math.floor(exact[1])))


def test_spans_end_with_their_file():
    assert frame_span(0.0, 9.0, 25, 10, "inclusive") == slice(0, 10)
    assert not range(10)[frame_span(5.0, 9.0, 25, 10, "inclusive")]


ALIGNMENT = [
    Interval("a", 0.0, 0.2),
    Interval("b", 0.2, 0.4),
    Interval("c", 0.4, 0.6),
    Interval(SILENCE, 0.6, 0.8),
    Interval("d", 0.8, 0.9),
    Interval("e", 1.0, 1.1),
]


def test_phonemes_have_neighbours_and_silence_beyond():
    tokens = tokens_of("f", ALIGNMENT, "s", "phoneme")
    told = [(token.previous, token.phone, token.following) for token in tokens]
    sil = SILENCE
    assert told == [(sil, "a", "b"), ("a", "b", "c"), ("b", "c", sil), (sil, "d", sil), (sil, "e", sil)]
    assert (tokens[1].start_s, tokens[1].end_s) == (0.2, 0.4)


def test_triphones_reach_over_their_neighbours():
    assert tokens_of("f", ALIGNMENT, "s", "triphone") == [PhoneToken("f", 0.0, 0.6, "b", "a", "c", "s")]


def test_tokens_get_their_frames_and_those_without_are_left_out():
    tokens = tokens_of("f", [Interval("a", 0.0, 0.1), Interval("b", 0.11, 0.13)], "s", "phoneme")
    (token,) = cut(tokens, {"f": np.arange(5)}, 25, "inclusive")
    assert (token.phone, token.frames.tolist()) == ("a", [0, 1, 2])
    assert [len(token.frames) for token in cut(tokens, {"f": np.ones((5, 3))}, 25, "libri-light")] == [2]


ITEMS = "#file onset offset #phone prev-phone next-phone speaker\n1-2-3 0.1 0.35 AH D G 84\n"


def test_item_files_are_read(tmp_path):
    (tmp_path / "dev.item").write_text(ITEMS)
    assert read_items(str(tmp_path / "dev.item")) == [PhoneToken("1-2-3", 0.1, 0.35, "AH", "D", "G", "84")]


@pytest.mark.parametrize("line", ["1 0.1 0.2 AH D G", "1 0 soon AH D G 84", "1 0.2 0.1 AH D G 84", "1 0 inf AH D G 8"])
def test_a_line_that_does_not_fit_is_named(tmp_path, line):
    (tmp_path / "dev.item").write_text(f"{ITEMS}{line}\n")
    with pytest.raises(TwistError, match=r"dev\.item, line 3"):
        read_items(str(tmp_path / "dev.item"))


def test_item_files_that_are_not_there_or_empty_are_refused(tmp_path):
    with pytest.raises(TwistError, match="there is no item file"):
        read_items(str(tmp_path / "none.item"))
    (tmp_path / "dev.item").write_text(ITEMS.splitlines()[0])
    with pytest.raises(TwistError, match="has no tokens"):
        read_items(str(tmp_path / "dev.item"))
