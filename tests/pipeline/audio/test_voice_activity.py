from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.read import AudioError, Span, probe, read_spans
from pipeline.audio.voice_activity import MIN_PAUSE_S, MIN_SPEECH_S, WINDOW_S, SpeechDetector, speech_regions
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def detect() -> SpeechDetector:
    return SpeechDetector(0.5)


@pytest.fixture(scope="module")
def utterances(speech: Path) -> list[NDArray[np.float32]]:
    """Five sentences of read speech."""
    paths = sorted((speech / "LibriSpeech" / "test-other" / "1688").rglob("*.flac"))[3:8]
    spans = [Span(str(path), None, 0.0, probe(str(path)).duration_s) for path in paths]
    wavs = [outcome for outcome in read_spans(spans) if not isinstance(outcome, AudioError)]
    assert len(wavs) == 5
    return wavs


def seconds_of(regions: list[tuple[float, float]]) -> float:
    return sum(off_s - on_s for on_s, off_s in regions)


def test_speech_is_found(detect: SpeechDetector, utterances: list[NDArray[np.float32]]) -> None:
    for wav in utterances:
        regions = detect(wav)
        assert seconds_of(regions) > 0.6 * len(wav) / SAMPLE_RATE_HZ, "most of a read sentence is speech"
        assert 0 <= regions[0][0] < regions[-1][1] <= len(wav) / SAMPLE_RATE_HZ


def test_speech_between_silences(detect: SpeechDetector, utterances: list[NDArray[np.float32]]) -> None:
    silence = np.zeros(3 * SAMPLE_RATE_HZ, np.float32)
    wav = np.concatenate([silence, utterances[0], silence])
    regions = detect(wav)
    assert regions[0][0] >= 2.8, "silence before speech was taken for speech"
    assert regions[-1][1] <= 3.3 + len(utterances[0]) / SAMPLE_RATE_HZ, "silence after speech was taken for speech"


def test_what_is_no_speech(detect: SpeechDetector) -> None:
    times_s = np.arange(10 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    noise = np.random.default_rng(0).normal(0, 0.05, len(times_s)).astype(np.float32)
    assert detect(np.zeros_like(noise)) == [], "silence"
    assert seconds_of(detect(noise)) < 1.0, "white noise"
    assert seconds_of(detect((0.3 * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32))) < 1.0, "a tone"


@pytest.mark.parametrize("num_samples", [0, 1, 511, 512, 513, 5000])
def test_clips_of_any_length(detect: SpeechDetector, num_samples: int) -> None:
    wav = np.random.default_rng(0).normal(0, 0.1, num_samples).astype(np.float32)
    assert len(detect.probabilities(wav)) == -(-num_samples // 512)
    assert all(0 <= on_s < off_s <= num_samples / SAMPLE_RATE_HZ for on_s, off_s in detect(wav))


def test_one_clip_leaves_no_trace_in_the_next(detect: SpeechDetector, utterances: list[NDArray[np.float32]]) -> None:
    first, second = utterances[:2]
    alone = SpeechDetector(0.5).probabilities(second)
    detect(first)
    np.testing.assert_array_equal(detect.probabilities(second), alone, "the detector remembers the clip before")
    np.testing.assert_array_equal(detect.probabilities(second), alone, "the detector remembers its own last call")


@settings(max_examples=200, deadline=None)
@given(
    probabilities=st.lists(st.floats(0, 1, width=32), max_size=80),
    threshold=st.floats(0.01, 0.99),
    last_window=st.floats(0.01, 1.0),
)
def test_regions_are_in_order_and_long_enough(probabilities: list[float], threshold: float, last_window: float) -> None:
    duration_s = max(0.0, (len(probabilities) - 1 + last_window) * WINDOW_S)
    regions = speech_regions(np.array(probabilities, np.float32), threshold, duration_s)
    for on_s, off_s in regions:
        assert on_s >= 0, "before the beginning"
        assert off_s <= duration_s, "beyond the end"
        assert off_s - on_s >= MIN_SPEECH_S, "a click"
    for (_, off_s), (on_s, _) in itertools.pairwise(regions):
        assert on_s - off_s >= MIN_PAUSE_S, "a pause too short to be one"


def published_regions(probabilities: list[float], threshold: float, num_samples: int) -> list[tuple[int, int]]:
    """What silero-vad documents of get_speech_timestamps (pad 0), in samples, found back to front by index sets."""
    high = [number for number, probability in enumerate(probabilities) if probability >= threshold]
    low = [number for number, probability in enumerate(probabilities) if probability < max(threshold - 0.15, 0.01)]
    found, place = [], 0
    while any(number >= place for number in high):
        begin = next(number for number in high if number >= place)
        end, place = num_samples, len(probabilities)
        for turn in itertools.pairwise([*(number for number in high if number >= begin), len(probabilities)]):
            dips = [number for number in low if turn[0] < number < turn[1]]
            late = [number for number in dips if 512 * (number - dips[0]) >= 1600]
            if late:
                end, place = 512 * dips[0], late[0] + 1
                break
        if end - 512 * begin > 4000:
            found.append((512 * begin, end))
    return found


@settings(max_examples=500, deadline=None)
@given(
    levels=st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 0.34, 0.36, 0.42, 0.49, 0.5, 0.9]), st.integers(1, 12)), max_size=25
    ),
    threshold=st.sampled_from([0.1, 0.2, 0.5, 0.7]),
    missing=st.integers(0, 511),
)
def test_regions_are_those_of_silero_vad(levels: list[tuple[float, int]], threshold: float, missing: int) -> None:
    probabilities = [level for level, count in levels for _ in range(count)]
    num_samples = max(0, 512 * len(probabilities) - missing)
    regions = speech_regions(np.array(probabilities), threshold, num_samples / SAMPLE_RATE_HZ)
    in_samples = [(round(on_s * SAMPLE_RATE_HZ), round(off_s * SAMPLE_RATE_HZ)) for on_s, off_s in regions]
    assert in_samples == published_regions(probabilities, threshold, num_samples)


def regions_in_windows(probabilities: list[float], threshold: float = 0.5) -> list[tuple[int, int]]:
    regions = speech_regions(np.array(probabilities, np.float32), threshold, len(probabilities) * WINDOW_S)
    return [(round(on_s / WINDOW_S), round(off_s / WINDOW_S)) for on_s, off_s in regions]


def test_hysteresis() -> None:
    assert regions_in_windows([0.1] * 5 + [0.6] * 10 + [0.1] * 5) == [(5, 15)]
    assert regions_in_windows([0.4] * 5 + [0.6] + [0.4] * 10 + [0.1] * 5) == [(5, 16)], "0.4 goes on, begins nothing"
    assert regions_in_windows([0.4] * 30) == [], "0.4 begins nothing"
    assert regions_in_windows([0.6] + [0.34] * 30) == [], "0.34 goes on with nothing"


def test_hysteresis_of_low_thresholds_ends() -> None:
    assert regions_in_windows([0.2] * 10 + [0.0] * 20, threshold=0.1) == [(0, 10)], "speech never ended"
    assert regions_in_windows([0.006] * 10 + [0.0] * 20, threshold=0.005) == [(0, 10)]


def test_short_pauses_are_bridged_and_clicks_left_out() -> None:
    speech, pause = [0.9] * 10, [0.0]
    assert regions_in_windows(speech + pause * 3 + speech) == [(0, 23)], "96 ms are no pause"
    assert regions_in_windows(speech + pause * 4 + speech) == [(0, 24)], "nor 128 ms, as in Silero's own code"
    assert regions_in_windows(speech + pause * 5 + speech) == [(0, 10), (15, 25)], "160 ms are"
    assert regions_in_windows(speech + pause * 5) == [(0, 10)]
    assert regions_in_windows(speech + pause * 4) == [(0, 14)], "no pause before the recording ends"
    assert regions_in_windows(pause * 9 + [0.9] * 7 + pause * 9) == [], "224 ms are no speech"
    assert regions_in_windows(pause * 9 + [0.9] * 8 + pause * 9) == [(9, 17)], "256 ms are"
    assert regions_in_windows([]) == []


def test_the_last_window_ends_with_the_recording() -> None:
    assert speech_regions(np.full(10, 0.9, np.float32), 0.5, 0.3) == [(0.0, 0.3)]
