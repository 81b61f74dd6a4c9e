"""Units, pitch and style merged by time, and back: goldens of the published tokenizer, and any streams at all."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.lm.streams import META_STYLES, StreamRates, Streams, merge, num_tokens, split
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

RATES = StreamRates(25.0, 12.5, 1.0)
# Laid out as Meta's EXPRESSIVE.
META = Vocabulary(501, 32002, bos_id=1, text_size=32000, num_pitch=64, num_style=100, pitch_offset=32503)
OURS = Vocabulary(
    12, 9, text_size=7, num_pitch=5, num_style=4, pitch_offset=21, pitch_fingerprint="p", style_fingerprint="s"
)


def streams_of(hu: list[int], pi: list[int], style: list[int]) -> Streams:
    """Streams of one code a frame."""
    frames = np.array(hu, np.uint16)
    starts = np.flatnonzero(np.concatenate([[True], frames[1:] != frames[:-1]]))
    durations = np.diff(np.append(starts, len(frames))).astype(np.uint16)
    return Streams(frames[starts], durations, np.array(pi, np.uint16), np.array(style, np.uint16))


def written(ids: np.ndarray, vocabulary: Vocabulary) -> str:
    names = []
    for token in ids.tolist():
        if token < vocabulary.pitch_offset:
            names.append(f"[Hu{token - vocabulary.offset}]")
        elif token < vocabulary.style_offset:
            names.append(f"[Pi{token - vocabulary.pitch_offset}]")
        else:
            names.append(f"[St{token - vocabulary.style_offset}]")
    return "".join(names)


def read(text: str, vocabulary: Vocabulary) -> np.ndarray:
    offsets = {"Hu": vocabulary.offset, "Pi": vocabulary.pitch_offset, "St": vocabulary.style_offset}
    return np.array([offsets[kind] + int(code) for kind, code in re.findall(r"\[(Hu|Pi|St)(\d+)\]", text)], np.int64)


def by_hand(hu: list[int], pi: list[int], style: list[int]) -> list[tuple[str, int]]:
    """The rule in plain Python: tokens with their times, sorted with style before pitch before units."""
    tokens = [(i / 1.0, 0, "St", code) for i, code in enumerate(style)]
    tokens += [(i / 12.5, 1, "Pi", code) for i, code in enumerate(pi) if i == 0 or pi[i - 1] != code]
    tokens += [(i / 25.0, 2, "Hu", code) for i, code in enumerate(hu) if i == 0 or hu[i - 1] != code]
    return [(kind, code) for _, _, kind, code in sorted(tokens, key=lambda token: token[:2])]


@pytest.mark.parametrize(
    ("hu", "pi", "style", "expected"),
    [
        (
            [78, 42, 81, 159, 316, 259],
            [13, 13, 3],
            [81],
            "[St81][Pi13][Hu78][Hu42][Hu81][Hu159][Pi3][Hu316][Hu259]",
        ),
        ([5, 5, 5, 7, 7, 9], [1, 1, 2], [4], "[St4][Pi1][Hu5][Hu7][Pi2][Hu9]"),
    ],
)
def test_goldens_of_the_published_tokenizer(hu: list[int], pi: list[int], style: list[int], expected: str) -> None:
    for units_hz in (24.95, 24.99, 25.0):  # the published one counts 24.99 frames a second
        merged = merge([streams_of(hu, pi, style)], META, StreamRates(units_hz, 12.5, 1.0))
        assert written(merged.ids, META) == expected


@pytest.mark.parametrize(
    ("text", "units", "pitch", "style"),
    [
        ("[Hu34][St2][Pi9][Hu371][Hu20]", [34, 371, 20], [9, 9, 9], [2, 2, 2]),
        ("[St7][Pi1][Hu3][Pi2][Pi4][Hu5]", [3, 5], [1, 4], [7, 7]),
        ("[Hu1][Hu2]", [1, 2], None, None),
        ("[St7][Hu1][St8][Hu2]", [1, 2], None, [7, 8]),
        ("[Hu1][Hu2][Pi3]", [1, 2], [3, 3], "one of Meta's"),
        ("[Pi3][St1]", [], [], []),
    ],
)
def test_goldens_of_the_way_back(text: str, units: list[int], pitch: object, style: object) -> None:
    spoken = split(read(text, META), META)
    assert spoken.units.tolist() == units
    assert (None if spoken.pitch is None else spoken.pitch.tolist()) == pitch
    if style == "one of Meta's":
        assert spoken.style is not None and len(set(spoken.style.tolist())) == 1
        assert spoken.style[0] in META_STYLES
        draws = {split(read(text, META), META, seed=seed).style[0] for seed in range(40)}  # type: ignore[index]
        assert draws == set(META_STYLES)
    else:
        assert (None if spoken.style is None else spoken.style.tolist()) == style


def test_a_unit_is_said_again_for_each_further_pitch() -> None:
    spoken = split(read("[St7][Pi1][Hu3][Pi2][Pi4][Hu5]", META), META, repeat_units=True)
    assert spoken.units.tolist() == [3, 3, 5]
    assert spoken.pitch is not None and spoken.pitch.tolist() == [1, 4, 4]
    assert split(read("[Pi1][Pi2][Hu3]", META), META, repeat_units=True).units.tolist() == [3]


def test_a_model_of_ours_has_no_style_where_none_is_said() -> None:
    assert split(read("[Hu1][Pi3][Hu2]", OURS), OURS).style is None


@st.composite
def dense_streams(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    num_frames = draw(st.integers(1, 90))
    counts = (num_frames, -(-num_frames // 2), -(-num_frames // 25))
    sizes = (OURS.codebook_size, OURS.num_pitch, OURS.num_style)
    return tuple(  # type: ignore[return-value]
        draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count))
        for count, size in zip(counts, sizes, strict=True)
    )


@given(st.lists(dense_streams(), min_size=1, max_size=4))
def test_merging_is_sorting_by_time_each_stretch_by_itself(
    stretches: list[tuple[list[int], list[int], list[int]]],
) -> None:
    merged = merge([streams_of(*stretch) for stretch in stretches], OURS, RATES)
    ends = np.cumsum(merged.lengths)
    assert ends[-1] == len(merged.ids)
    for stretch, end, length in zip(stretches, ends, merged.lengths, strict=True):
        expected = "".join(f"[{kind}{code}]" for kind, code in by_hand(*stretch))
        assert written(merged.ids[end - length : end], OURS) == expected
        streams = streams_of(*stretch)
        assert length == num_tokens(len(streams.units), streams.pitch, len(streams.style))
        assert (np.diff(merged.time_s[end - length : end]) >= 0).all()


@given(dense_streams())
def test_splitting_undoes_merging(stretch: tuple[list[int], list[int], list[int]]) -> None:
    """Each unit comes back with the pitch and the style of the moment at which it begins."""
    streams = streams_of(*stretch)
    spoken = split(merge([streams], OURS, RATES).ids, OURS)
    starts = np.cumsum(streams.durations, dtype=np.int64) - streams.durations
    assert spoken.units.tolist() == streams.units.tolist()
    assert spoken.pitch is not None and spoken.style is not None
    assert spoken.pitch.tolist() == streams.pitch[starts // 2].tolist()
    assert spoken.style.tolist() == streams.style[starts // 25].tolist()


@given(dense_streams())
def test_with_durations_all_comes_back(stretch: tuple[list[int], list[int], list[int]]) -> None:
    """Where a unit begins at every frame, nothing is lost at all."""
    hu, pi, style = stretch
    hu = [code % 6 + 6 * (frame % 2) for frame, code in enumerate(hu)]
    streams = streams_of(hu, pi, style)
    spoken = split(merge([streams], OURS, RATES).ids, OURS)
    assert spoken.pitch is not None and spoken.style is not None
    assert spoken.units.tolist() == hu
    assert spoken.pitch[::2].tolist() == pi
    assert spoken.style[::25].tolist() == style


def test_what_is_no_speech_is_left_out() -> None:
    ids = np.array([3, 7, 8, OURS.offset + 2, 40])
    assert split(ids, OURS).units.tolist() == [2]
    assert len(split(np.zeros(0, np.int64), OURS).units) == 0


def test_nothing_to_merge() -> None:
    assert len(merge([], OURS, RATES).ids) == 0


@pytest.mark.parametrize(("hu", "pi", "style"), [([12], [0], [0]), ([0], [5], [0]), ([0], [0], [4])])
def test_codes_of_another_model_are_refused(hu: list[int], pi: list[int], style: list[int]) -> None:
    with pytest.raises(TwistError, match="not"):
        merge([streams_of(hu, pi, style)], OURS, RATES)


def test_rates_must_be_rates() -> None:
    with pytest.raises(TwistError, match="pitch_hz is 0"):
        StreamRates(25.0, 0, 1.0)
