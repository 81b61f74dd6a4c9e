"""How alike two clips are in melody, loudness and pace: on tones of which all that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from model.pitch.contour import extract
from pipeline.evaluation.speech.prosody import HOP_SAMPLES, likeness, loudness_db, syllable_rate_hz

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Wav = NDArray[np.float32]


def sung(hertz: NDArray[np.float64], level: NDArray[np.float64] | float = 0.3) -> Wav:
    """A voice-like tone with the F0 of each frame [T]; silence where it is 0."""
    samples_hz = np.repeat(hertz, HOP_SAMPLES)
    phase = 2 * np.pi * np.cumsum(samples_hz) / 16_000
    wav = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 8))
    levels = np.repeat(level, HOP_SAMPLES) if isinstance(level, np.ndarray) else level
    return (levels * wav * (samples_hz > 0)).astype(np.float32)


def f0_of(wav: Wav) -> NDArray[np.float32]:
    return extract(wav, "nccf").f0


TIMES_S = np.arange(400) / 200
MELODY = 180 * 2 ** (0.4 * np.sin(2 * np.pi * 0.9 * TIMES_S))
LOUDNESS = 0.05 + 0.25 * np.sin(2 * np.pi * 0.7 * TIMES_S) ** 2


def test_a_clip_is_like_itself() -> None:
    wav = sung(MELODY, LOUDNESS)
    same = likeness(wav, wav, f0_of)
    assert same.f0_correlation == pytest.approx(1) and same.energy_correlation == pytest.approx(1)
    assert same.f0_error_cents == pytest.approx(0, abs=1e-6) and same.f0_frame_error == 0
    assert same.syllable_rates_hz[0] == same.syllable_rates_hz[1]


def test_another_voice_keeps_the_melody_and_a_monotone_does_not() -> None:
    wav = sung(MELODY, LOUDNESS)
    higher = likeness(wav, sung(MELODY * 1.5, LOUDNESS), f0_of)
    assert higher.f0_correlation == pytest.approx(1, abs=0.02)
    assert higher.f0_error_cents is not None and higher.f0_error_cents < 40
    assert higher.f0_frame_error is not None and higher.f0_frame_error > 0.9, "half as high again is a gross error"
    flat = likeness(wav, sung(np.full(400, 180.0), LOUDNESS), f0_of)
    assert flat.f0_correlation is not None and abs(flat.f0_correlation) < 0.3
    assert flat.f0_error_cents == pytest.approx(1200 * np.std(np.log2(MELODY)), rel=0.1)
    against = likeness(wav, sung(180**2 / MELODY, LOUDNESS), f0_of)
    assert against.f0_correlation == pytest.approx(-1, abs=0.02)


def test_what_lasts_longer_is_compared_at_its_own_pace() -> None:
    slower = likeness(sung(MELODY, LOUDNESS), sung(np.repeat(MELODY, 2), np.repeat(LOUDNESS, 2)), f0_of)
    assert slower.f0_correlation == pytest.approx(1, abs=0.02)
    assert slower.energy_correlation == pytest.approx(1, abs=0.02)


def test_loudness_is_compared_where_there_is_sound() -> None:
    silence = np.zeros(200)
    wav = sung(np.concatenate([MELODY, silence]), np.concatenate([LOUDNESS, silence]))
    quieter = likeness(wav, 0.1 * wav, f0_of)
    assert quieter.energy_correlation == pytest.approx(1)
    level = likeness(wav, sung(np.concatenate([MELODY, silence])), f0_of)
    assert level.energy_correlation is not None and level.energy_correlation < 0.5, "silence alone is no likeness"


def test_what_is_not_there_is_not_compared() -> None:
    silence = np.zeros(16_000, np.float32)
    nothing = likeness(silence, silence, f0_of)
    assert nothing.f0_correlation is None and nothing.f0_error_cents is None and nothing.energy_correlation is None
    assert nothing.f0_frame_error == 0 and nothing.syllable_rates_hz == (0, 0)
    lost = likeness(sung(MELODY), silence, f0_of)
    assert lost.f0_correlation is None and lost.f0_frame_error == pytest.approx(1, abs=0.05)
    empty = likeness(np.zeros(0, np.float32), silence, f0_of)
    assert empty.f0_frame_error is None
    assert likeness(sung(MELODY), np.zeros(0, np.float32), f0_of).f0_correlation is None


@pytest.mark.parametrize("rate_hz", [2.0, 4.0, 6.0])
def test_syllables_are_peaks_of_loudness(rate_hz: float) -> None:
    times_s = np.arange(1000) / 200
    level = 0.01 + 0.29 * np.sin(np.pi * rate_hz * times_s) ** 2
    assert syllable_rate_hz(sung(np.full(1000, 150.0), level)) == pytest.approx(rate_hz, abs=0.45)


def test_loudness_has_a_value_a_hop() -> None:
    wav = np.full(1000, 0.5, np.float32)
    found = loudness_db(wav)
    assert found.shape == (12,) and found[6] == pytest.approx(20 * np.log10(0.5), abs=1e-6)
    assert loudness_db(wav[:50]).shape == (0,)


def test_speech_said_again_in_another_voice_keeps_more_than_other_speech(speech: Path) -> None:
    """Recorded speech, played a tenth faster (and so higher), beside another clip."""
    clips = sorted(path for path in speech.rglob("*.flac"))[:2] or sorted(speech.rglob("*.wav"))[:2]
    wavs = [soundfile.read(path, dtype="float32", frames=80_000)[0] for path in clips]
    one, other = (wav if wav.ndim == 1 else wav.mean(axis=1) for wav in wavs)
    faster = np.interp(np.arange(0, len(one) - 1, 1.1), np.arange(len(one)), one).astype(np.float32)
    kept, lost = likeness(one, faster, f0_of), likeness(one, other, f0_of)
    assert kept.f0_correlation is not None and lost.f0_correlation is not None
    assert kept.f0_correlation > 0.8 > lost.f0_correlation
    assert kept.energy_correlation is not None and lost.energy_correlation is not None
    assert kept.energy_correlation > 0.8 > lost.energy_correlation
