"""F0 extraction: contours of known pitch, voicing, level, length, and speech without a voiced frame."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from model.pitch.contour import Contour, extract, features_of, interpolated
from model.pitch.model_config import Extractor

RATE_HZ = 16_000


def voice(f0_hz: np.ndarray, seed: int = 0) -> np.ndarray:
    """A buzz [S] of harmonics that fall by 12 dB an octave, of F0 [S] in Hz; noise of -40 dB where F0 is 0."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    harmonics = [np.sin(number * phase) / number**2 * (number * f0_hz < 7000) for number in range(1, 30)]
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(f0_hz))
    return (0.3 * np.sum(harmonics, axis=0) * (f0_hz > 0) + 0.3 * noise).astype(np.float32)


def gliding(low_hz: float, high_hz: float, seconds: float) -> np.ndarray:
    return low_hz * (high_hz / low_hz) ** np.linspace(0, 1, round(seconds * RATE_HZ))


def extractors() -> list[object]:
    return ["nccf", pytest.param("yaapt", marks=pytest.mark.skipif(not has_yaapt(), reason="the extra pitch"))]


def has_yaapt() -> bool:
    try:
        import amfm_decompy  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("extractor", extractors())
@pytest.mark.parametrize(("low_hz", "high_hz"), [(80, 120), (120, 240), (200, 380)])
def test_pitch_is_found(extractor: Extractor, low_hz: float, high_hz: float) -> None:
    f0_hz = gliding(low_hz, high_hz, 1.5)
    contour = extract(voice(f0_hz), extractor)
    assert len(contour) == 300
    truth = f0_hz[40::80]
    inner = slice(10, -10)
    cents = 1200 * np.abs(np.log2(np.maximum(contour.f0, 1)[inner] / truth[inner]))
    # YAAPT's lags are whole samples.
    assert np.median(cents) < (10 if extractor == "nccf" else 60), f"{np.median(cents):.0f} cents from the truth"
    assert np.quantile(cents, 0.95) < 100


def test_high_voices_are_found_by_nccf() -> None:
    f0_hz = gliding(350, 560, 1.0)
    contour = extract(voice(f0_hz), "nccf")
    cents = 1200 * np.abs(np.log2(np.maximum(contour.f0, 1)[10:-10] / f0_hz[40::80][10:-10]))
    assert np.quantile(cents, 0.95) < 50


def test_a_loud_formant_is_not_taken_for_the_voice() -> None:
    """A vowel whose first formant lies on the third harmonic of 200 Hz, so breathy that longer lags correlate less."""
    wav = voice(np.full(32_000, 200.0))
    radius, angle = 0.99, 2 * np.pi * 600 / RATE_HZ
    noise = np.random.default_rng(0).standard_normal(6_000)
    formant = lfilter([1.0], [1, -2 * radius * np.cos(angle), radius**2], noise)
    wav[12_000:18_000] = 0.2 * wav[12_000:18_000] + 0.5 * formant / np.abs(formant).max()
    f0 = extract(wav, "nccf").f0
    assert (f0 < 400).all(), f"heard at {f0.max():.0f} Hz"


def test_voicing_is_found() -> None:
    f0_hz = np.concatenate([np.zeros(8000), np.full(8000, 150.0), np.zeros(8000), np.full(8000, 220.0), np.zeros(8000)])
    contour = extract(voice(f0_hz), "nccf")
    wrong = np.flatnonzero(contour.is_voiced != (f0_hz[40::80] > 0))
    assert len(wrong) <= 16, "more than 20 ms at each of four edges"
    assert (contour.is_voiced == (contour.f0 > 0)).all()


def test_pitch_does_not_depend_on_the_level() -> None:
    wav = voice(gliding(100, 200, 1.0))
    loud, quiet = (extract((wav * gain).astype(np.float32), "nccf").f0 for gain in (1.0, 2.0**-8))
    np.testing.assert_array_equal(loud, quiet)


def test_long_clips_are_the_same_as_their_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    wav = voice(gliding(100, 300, 2.0))
    whole = extract(wav, "nccf").f0
    monkeypatch.setattr("model.pitch.nccf.FRAMES_AT_ONCE", 37)
    np.testing.assert_allclose(extract(wav, "nccf").f0, whole, rtol=1e-6)


@pytest.mark.parametrize("extractor", extractors())
@pytest.mark.parametrize("kind", ["silence", "noise", "click", "short"])
def test_speech_without_a_voiced_frame_has_a_contour(extractor: Extractor, kind: str) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32)
    click = np.zeros(RATE_HZ, np.float32)
    click[5000] = 1.0
    wav = {"silence": np.zeros(RATE_HZ, np.float32), "noise": 0.1 * noise, "click": click, "short": noise[:85]}[kind]
    contour = extract(wav, extractor)
    assert len(contour) == len(wav) // 80
    assert np.isfinite(contour.f0).all()
    features = features_of(contour, "norm_f0_interp,vuv")
    assert features.shape == (2, len(contour)) and np.isfinite(features).all()
    if kind in ("silence", "short") or (kind, extractor) == ("noise", "nccf"):
        assert not contour.f0.any() or contour.is_voiced.mean() < 0.2


def test_all_unvoiced_is_all_zeros() -> None:
    contour = extract(np.zeros(RATE_HZ, np.float32), "nccf")
    assert contour.mean_hz is None and not contour.is_voiced.any()
    assert not features_of(contour, "norm_f0_interp,vuv").any()
    assert not features_of(contour, "norm_f0_interp,vuv", mean_hz=150.0).any()


def test_no_samples_are_no_frames() -> None:
    for length in (0, 1, 79):
        assert len(extract(np.zeros(length, np.float32), "nccf")) == 0


def test_gaps_are_interpolated_and_ends_filled() -> None:
    f0 = np.array([0, 100, 0, 0, 130, 120, 0], np.float32)
    np.testing.assert_allclose(interpolated(f0), [100, 100, 110, 120, 130, 120, 120])
    assert not interpolated(np.zeros(4, np.float32)).any()


def test_features_are_as_their_name_says() -> None:
    f0 = np.array([0, 100, 0, 140, 0], np.float32)
    contour = Contour(f0, np.array([False, True, True, True, False]))
    voicing = [0, 1, 1, 1, 0]
    expected = {
        "f0,vuv": [0, 100, 0, 140, 0],
        "f0_interp,vuv": [100, 100, 120, 140, 140],
        "norm_f0,vuv": [0, -20, 0, 20, 0],
        "norm_f0_interp,vuv": [-20, -20, 0, 20, 20],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(features_of(contour, name), [values, voicing], err_msg=name)  # type: ignore[arg-type]
    np.testing.assert_allclose(features_of(contour, "norm_f0,vuv", mean_hz=100.0)[0], [0, 0, 0, 40, 0])
