"""Which words lie in a segment: none is lost, moved or cut, and one that cannot be true costs its segment."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.words.times import EDGE_TOLERANCE_S, LONGEST_WORD_S, RecordingWords, Unusable, spelled_as

WORDS = [("the", 0.5, 0.6), ("cat", 0.6, 1.0), ("", 1.0, 1.4), ("sat", 1.4, 1.9)]


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[tuple[str, float, float]], float]:
    """Words that do not overlap, and the recording's length."""
    steps = draw(st.lists(st.tuples(st.integers(0, 900), st.integers(5, 900)), min_size=1, max_size=12))
    words, time_ms = [], 0
    for number, (pause_ms, length_ms) in enumerate(steps):
        start_ms = time_ms + pause_ms
        time_ms = start_ms + length_ms
        words.append((f"w{number}", start_ms / 1000, time_ms / 1000))
    return words, (time_ms + draw(st.integers(0, 500))) / 1000


@given(recordings(), st.lists(st.floats(0, 1), max_size=4))
def test_segments_hold_each_word_once_where_it_is(
    recording: tuple[list[tuple[str, float, float]], float], cuts: list[float]
) -> None:
    words, duration_s = recording
    edges_s = sorted({0.0, *(cut * duration_s for cut in cuts), duration_s + 0.001})
    told = RecordingWords(words, duration_s)
    by_word = {word: (start_s, end_s) for word, start_s, end_s in words}
    found: list[str] = []
    lost_s: list[tuple[float, float]] = []
    for start_s, end_s in itertools.pairwise(edges_s):
        within = told.within(start_s, end_s)
        if isinstance(within, Unusable):
            assert within.reason in ("word_cut", "no_words")
            lost_s.append((start_s, end_s))
            continue
        before_s = 0.0
        for word, word_start_s, word_end_s in within:
            assert before_s <= word_start_s < word_end_s <= end_s - start_s
            assert start_s + word_start_s == pytest.approx(by_word[word][0], abs=EDGE_TOLERANCE_S + 1e-6)
            assert start_s + word_end_s == pytest.approx(by_word[word][1], abs=EDGE_TOLERANCE_S + 1e-6)
            before_s = word_end_s
        found += [word for word, _, _ in within]
    assert found == sorted(set(found), key=lambda word: int(word[1:]))
    for word in by_word.keys() - set(found):
        middle_s = sum(by_word[word]) / 2
        assert any(start_s <= middle_s <= end_s for start_s, end_s in lost_s), f"{word} is in no segment"


def test_times_are_those_from_the_segments_start() -> None:
    assert RecordingWords(WORDS, 2.0).within(0.4, 1.2) == [("the", 0.1, 0.2), ("cat", 0.2, 0.6)]


def test_a_frame_beyond_the_edge_is_rounding() -> None:
    assert RecordingWords(WORDS, 2.0).within(0.51, 0.99) == [("the", 0.0, 0.09), ("cat", 0.09, 0.48)]


@pytest.mark.parametrize(("start_s", "end_s"), [(0.55, 1.2), (0.4, 0.8), (0.4, 1.5), (0.7, 0.9)])
def test_a_word_at_the_edge_drops_the_segment(start_s: float, end_s: float) -> None:
    within = RecordingWords(WORDS, 2.0).within(start_s, end_s)
    assert isinstance(within, Unusable) and within.reason == "word_cut"


def test_a_stretch_without_words_has_none() -> None:
    within = RecordingWords(WORDS, 3.0).within(2.0, 3.0)
    assert isinstance(within, Unusable) and within.reason == "no_words"


@pytest.mark.parametrize(
    ("start_s", "end_s", "fault"),
    [
        (1.4, 1.4, "has no length"),
        (1.9, 1.4, "has no length"),
        (-0.5, 0.5, "begins before the recording"),
        (1.4, 1.4 + LONGEST_WORD_S + 0.1, "is longer than"),
        (math.nan, math.nan, "has no time"),
        (1.4, math.nan, "has no time"),
        (0.8, 1.2, "overlaps"),
    ],
)
def test_times_that_cannot_be_true_drop_the_segment(start_s: float, end_s: float, fault: str) -> None:
    words = [*WORDS[:2], ("sat", start_s, end_s), ("down", 8.0, 8.5)]
    told = RecordingWords(words, 9.0)
    within = told.within(0.4, 2.0)
    assert isinstance(within, Unusable) and within.reason == "bad_times" and fault in within.detail
    assert told.within(7.9, 8.6) == [("down", 0.1, 0.6)] or fault == "has no time"


@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.4, 5.0, math.nan])), max_size=9))
def test_a_word_without_times_lies_between_its_sound_neighbours(drawn: list[tuple[int, float]]) -> None:
    """Against a search for these neighbours, word by word."""
    words, time_s = [], 0.0
    for pause_s, length_s in drawn:
        words.append(("a", time_s + pause_s, time_s + pause_s + length_s))
        time_s += pause_s + (0.0 if math.isnan(length_s) else length_s)
    if words:
        words[0] = ("a", math.nan, words[0][2])
    duration_s = time_s + 1.0
    told = RecordingWords(words, duration_s)
    is_sound = [place not in told._faults for place in range(len(words))]
    for number, place in enumerate(told._faults):
        stated = [time for time in words[place][1:] if math.isfinite(time)]
        before_s = next((words[p][2] for p in range(place - 1, -1, -1) if is_sound[p]), 0.0)
        after_s = next((words[p][1] for p in range(place + 1, len(words)) if is_sound[p]), duration_s)
        span_s = (told._from_s[number], told._to_s[number])
        if len(stated) == 2:
            assert span_s == (min(stated), max(stated))
        else:
            assert span_s == (min([before_s, *stated]), max([after_s, *stated]))


def test_an_alignment_of_longer_audio_fits_no_segment() -> None:
    told = RecordingWords(WORDS, 1.5)
    for span in ((0.0, 1.2), (1.2, 1.5)):
        within = told.within(*span)
        assert isinstance(within, Unusable) and within.reason == "misaligned"
        assert within.detail == "the alignment ends at 1.90 s, the recording at 1.50 s"


def test_a_word_that_the_aligner_did_not_know_drops_its_segment_alone() -> None:
    told = RecordingWords([*WORDS, ("<unk>", 2.0, 2.5)], 3.0)
    within = told.within(1.2, 3.0)
    assert isinstance(within, Unusable) and within.reason == "unknown_word"
    assert [word for word, _, _ in told.within(0.0, 1.2)] == ["the", "cat"]  # type: ignore[union-attr]


def spelled_by_trying(text: str, words: list[tuple[str, float, float]]) -> list[tuple[str, float, float]] | None:
    """Takes written words until they have the letters of the next word, and then those without letters."""

    def letters(text: str) -> str:
        return "".join(character for character in text.casefold() if character.isalnum())

    written, spelled = text.split(), []
    for word, start_s, end_s in words:
        counts = [count for count in range(1, len(written) + 1) if letters(" ".join(written[:count])) == letters(word)]
        if not counts:
            return None
        taken = next((c for c in range(counts[0], len(written)) if letters(written[c])), len(written))
        spelled.append((" ".join(written[:taken]), start_s, end_s))
        written = written[taken:]
    return None if written else spelled


@given(st.text("aAbß-. 1", max_size=12), st.lists(st.text("abs-1", max_size=4), max_size=5))
def test_spelling_is_what_trying_finds(text: str, words: list[str]) -> None:
    for said in (words, text.lower().split(), text.replace("-", " ").split()):
        labelled = [(word, float(place), place + 1.0) for place, word in enumerate(said)]
        assert spelled_as(text, labelled) == spelled_by_trying(text, labelled)


def test_words_get_the_spelling_of_their_text() -> None:
    words = [("well", 0.0, 0.5), ("known", 0.5, 1.0), ("it's", 1.0, 1.5), ("IN THE", 2.0, 2.5)]
    assert spelled_as("Well - known. It's in the", words) == [
        ("Well -", 0.0, 0.5),
        ("known.", 0.5, 1.0),
        ("It's", 1.0, 1.5),
        ("in the", 2.0, 2.5),
    ]
    assert spelled_as("Well known.", words) is None
    assert spelled_as("Well known. It's in the house", words) is None
    assert spelled_as("", words) is None
    assert spelled_as("well", [*words[:1], ("-", 0.5, 1.0)]) is None, "a word of nothing"
