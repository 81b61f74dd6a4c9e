"""Perturbing: the same length, the same times, another pitch; and the same draw gives the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from model.encoder.perturb import another_voice, perturb, through_mp3
from pipeline.records import SAMPLE_RATE_HZ

SECONDS = np.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ


def harmonics(hz: float) -> np.ndarray:
    """A hum [S] whose first harmonic is the strongest."""
    parts = [np.sin(2 * np.pi * hz * number * SECONDS) / number**2 for number in range(1, 9)]
    return (0.2 * sum(parts)).astype(np.float32)  # type: ignore[union-attr]


def bursts() -> np.ndarray:
    """Hums of 0.2 s with pauses of 0.3 s between them, over a faint noise."""
    is_on = (SECONDS % 0.5) < 0.2
    noise = 1e-3 * np.random.default_rng(0).standard_normal(len(SECONDS))
    return (harmonics(150) * is_on + noise).astype(np.float32)


def share_at_harmonics(wav: np.ndarray, hz: float) -> float:
    """Share of the power within 6 Hz of a multiple of a frequency."""
    powers = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2
    at_hz = np.fft.rfftfreq(len(wav), 1 / SAMPLE_RATE_HZ)
    number = np.round(at_hz / hz)
    return float(powers[(number > 0) & (np.abs(at_hz - number * hz) < 6)].sum() / powers.sum())


@pytest.mark.parametrize("seed", range(12))
def test_length_is_kept_and_a_seed_is_a_draw(seed: int) -> None:
    wav = bursts()
    given = wav.copy()
    first, second = (perturb(wav, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == wav.shape and first.dtype == np.float32 and np.isfinite(first).all()
    assert np.array_equal(first, second), "a seed gives two different draws"
    assert np.array_equal(wav, given), "the clip that was given is changed"
    assert not np.allclose(first, wav), "nothing is perturbed"


@pytest.mark.parametrize("pitch", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("formants", [0.9, 1.15])
def test_another_voice_has_the_pitch_that_is_asked_for(pitch: float, formants: float) -> None:
    changed = another_voice(harmonics(200), pitch, formants)
    assert share_at_harmonics(changed, 200 * pitch) > 0.9
    if pitch != 1.0:
        assert share_at_harmonics(changed, 200) < 0.3


@pytest.mark.parametrize("pitch", [0.77, 1.3])
def test_sounds_stay_at_their_times(pitch: float) -> None:
    wav = bursts()
    power, changed = (np.square(each).reshape(-1, 320).mean(axis=1) for each in (wav, another_voice(wav, pitch, 1.0)))
    loud, still = power > 1e-3, power < 1e-5
    assert changed[loud].mean() > 20 * changed[still].mean(), "bursts and pauses are not where they were"


def test_formants_move_without_the_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(len(SECONDS)).astype(np.float32)
    hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE_HZ)
    formant = np.fft.irfft(np.fft.rfft(noise) * np.exp(-(((hz - 1500) / 300) ** 2)), len(noise)).astype(np.float32)
    moved = another_voice(formant, 1.0, 1.2)
    powers = np.abs(np.fft.rfft(moved)) ** 2
    assert float((hz * powers).sum() / powers.sum()) == pytest.approx(1800, abs=120)


def test_mp3_adds_no_delay() -> None:
    click = np.zeros(16_000, np.float32)
    click[8000:8200] = np.random.default_rng(0).standard_normal(200)
    coded = through_mp3(click, 0.5)
    assert coded.shape == click.shape
    lags = np.correlate(coded, click, "same")
    assert abs(int(np.abs(lags).argmax()) - 8000) <= 1


def test_silence_stays_silence() -> None:
    silence = np.zeros(16_000, np.float32)
    assert not perturb(silence, np.random.default_rng(0)).any()
    assert not through_mp3(silence, 0.5).any()
