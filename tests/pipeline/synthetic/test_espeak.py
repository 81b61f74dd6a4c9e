from __future__ import annotations

import ctypes
import hashlib
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import espeakng_loader
import numpy as np
import pytest

from pipeline.errors import RunError, TwistError
from pipeline.synthetic import espeak
from pipeline.synthetic.espeak import speak, synthesize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TEXT = "The quiet harbour slept, and she sells fish."
# Ordinary variants, a whispering one, and one whose noise comes from the C library's rand().
VOICES = ["en-us", "en-us+f3", "en-gb-scotland+m2", "en-029+whisper", "en-us+caleb", "de"]


def _speak(voice: str, text: str = TEXT, words_per_minute: int = 165, pitch: int = 50) -> NDArray[np.int16]:
    return synthesize(text, voice, words_per_minute=words_per_minute, pitch=pitch)[0]


def _f0_hz(wav: NDArray[np.int16], rate_hz: int) -> float:
    """Median over 50 ms frames of the strongest autocorrelation between 60 and 400 Hz."""
    lags = slice(rate_hz // 400, rate_hz // 60)
    found = []
    for frame in np.split(wav[: len(wav) // 1100 * 1100].astype(float), len(wav) // 1100):
        correlation = np.correlate(frame, frame, "full")[len(frame) - 1 :]
        if correlation[0] > 0 and correlation[lags].max() > 0.5 * correlation[0]:
            found.append(rate_hz / (lags.start + correlation[lags].argmax()))
    return float(np.median(found))


@pytest.mark.parametrize("voice", VOICES)
def test_samples_do_not_depend_on_what_was_spoken_before(voice: str) -> None:
    first = _speak(voice)
    _speak("fr+f2", "Quelque chose de tout autre.", words_per_minute=300, pitch=90)
    _speak("en-us+croak", "Something else again.")
    assert np.array_equal(_speak(voice), first), "the synthesizer kept state from one call to the next"


def test_samples_are_the_same_in_another_process() -> None:
    script = (
        "import hashlib; from pipeline.synthetic.espeak import synthesize; "
        f"print([hashlib.sha256(synthesize({TEXT!r}, voice)[0].tobytes()).hexdigest() for voice in {VOICES!r}])"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    here = [hashlib.sha256(_speak(voice).tobytes()).hexdigest() for voice in VOICES]
    assert there == str(here), "a fresh process spoke otherwise than this one"


def test_threads_do_not_disturb_each_other() -> None:
    alone = [_speak(voice) for voice in VOICES]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(_speak, VOICES * 3))
    for number, wav in enumerate(together):
        assert np.array_equal(wav, alone[number % len(VOICES)]), f"{VOICES[number % len(VOICES)]} differs among threads"


def test_draws_of_other_threads_do_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's threads draw from the C library's rand(), too, from which comes the noise of en-us+caleb."""
    alone = _speak("en-us+caleb")
    draws_before_speaking = iter([1, 3, 0, 2, 0, 0])
    set_voice = espeak._set_voice

    def set_voice_disturbed(*arguments: Any) -> None:
        set_voice(*arguments)
        for _ in range(next(draws_before_speaking, 0)):
            ctypes.CDLL(None).rand()

    monkeypatch.setattr(espeak, "_set_voice", set_voice_disturbed)
    assert np.array_equal(_speak("en-us+caleb"), alone)
    assert list(draws_before_speaking) == [], "spoken again until twice the same came out"


def test_draws_without_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    set_voice = espeak._set_voice
    numbers = itertools.count(1)

    def set_voice_disturbed(*arguments: Any) -> None:
        set_voice(*arguments)
        for _ in range(next(numbers)):
            ctypes.CDLL(None).rand()

    monkeypatch.setattr(espeak, "_set_voice", set_voice_disturbed)
    with pytest.raises(RunError, match=r"while en-us\+caleb spoke"):
        _speak("en-us+caleb")


def test_speech_has_a_plausible_length_and_level() -> None:
    wav, rate_hz = synthesize(TEXT, "en-us")
    assert (wav.dtype, wav.ndim, rate_hz) == (np.int16, 1, 22_050)
    assert 2.0 < len(wav) / rate_hz < 4.5, "eight words at 165 a minute take about three seconds"
    assert np.abs(wav.astype(int)).max() > 8_000, "speech should come near full scale"


def test_more_words_per_minute_take_less_time() -> None:
    slow, normal, fast = (len(_speak("en-us", words_per_minute=rate)) for rate in (90, 165, 330))
    assert slow > 1.5 * normal, "90 words a minute should take nearly twice as long as 165"
    assert fast < 0.7 * normal, "330 words a minute should take about half as long as 165"


def test_pitch_raises_the_fundamental_frequency() -> None:
    low, high = (_f0_hz(_speak("en-us", pitch=pitch), 22_050) for pitch in (20, 80))
    assert high > 1.2 * low, f"pitch 80 gave {high:.0f} Hz, pitch 20 gave {low:.0f} Hz"


def test_voices_and_variants_differ() -> None:
    digests = {hashlib.sha256(_speak(voice).tobytes()).digest() for voice in VOICES}
    assert len(digests) == len(VOICES), "two voices spoke alike; is a variant ignored?"


def test_text_beyond_ascii_is_read_as_utf_8() -> None:
    assert not np.array_equal(_speak("de", "schon"), _speak("de", "schön")), "the umlaut was lost"


@pytest.mark.parametrize("text", ["", "   "])
def test_nothing_to_say_gives_silence(text: str) -> None:
    wav = _speak("en-us", text)
    assert not wav.any(), "something was said"
    assert len(wav) < 22_050 * 0.05, "the silence should be short"


@pytest.mark.parametrize("voice", ["tlhingan", "", "en-us+nobody", "en-us+", "en-us+../../en_dict", "../en_dict"])
def test_an_unknown_voice_is_named(voice: str) -> None:
    with pytest.raises(TwistError) as error:
        _speak(voice)
    assert repr(voice) in str(error.value), "the message should name the voice"


@pytest.mark.parametrize(
    "setting", [{"words_per_minute": 79}, {"words_per_minute": 451}, {"pitch": -1}, {"pitch": 100}]
)
def test_a_setting_out_of_range_is_refused_rather_than_clamped(setting: dict[str, int]) -> None:
    with pytest.raises(TwistError, match=str(next(iter(setting.values())))):
        _speak("en-us", **setting)  # type: ignore[arg-type]


def test_a_library_that_cannot_be_loaded_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "libespeak-ng.so"))
    with pytest.raises(TwistError, match="reinstall the package espeakng-loader"):
        _speak("en-us")


def test_missing_voice_data_is_an_error_and_not_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(TwistError, match="cannot read its data"):
        _speak("en-us")
    monkeypatch.undo()
    assert len(_speak("en-us")) > 0, "one failure should not spoil the calls after it"


@pytest.mark.parametrize("voice", VOICES)
def test_what_is_heard_fills_the_samples_in_order(voice: str) -> None:
    speech = speak(TEXT, voice)
    assert np.array_equal(speech.wav, synthesize(TEXT, voice)[0])
    for heard in (speech.phonemes, speech.words):
        assert all(first.end_s == second.start_s for first, second in itertools.pairwise(heard))
        assert heard[-1].end_s == pytest.approx(len(speech.wav) / speech.sample_rate_hz)
    assert [word.name for word in speech.words] == ["1", "5", "11", "19", "26", "30", "34", "40"], "places in the text"


def test_phonemes_are_those_of_the_words() -> None:
    names = [phoneme.name for phoneme in speak("She sees fish.", "en-us").phonemes if phoneme.name]
    assert names == ["S", "i", "s", "i", "z", "f", "I", "S"]
    slow, fast = (speak("She sees fish.", "en-us", words_per_minute=rate) for rate in (100, 200))
    assert [one.name for one in slow.phonemes if one.name] == [one.name for one in fast.phonemes if one.name]
    assert slow.phonemes[3].start_s > fast.phonemes[3].start_s


def test_nothing_to_say_has_no_phonemes() -> None:
    assert all(not phoneme.name for phoneme in speak("", "en-us").phonemes)
