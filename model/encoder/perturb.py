"""Changes who speaks, where and over what, but not what is said or when: the second view of a clip in Spin.

In order, each with a probability of its own:

1. Another voice: pitch by a phase vocoder, and formants by moving the cepstral envelope (Choi et al. 2021, "NANSY",
   and Qian et al. 2022, "ContentVec", section 3.3, perturb the same two).
2. Another microphone: a smooth random equalizer, and a telephone's band.
3. A room: exponentially decaying noise as its impulse response.
4. Noise: white to red, of 5 to 35 dB.
5. MP3, at a random bit rate.

All keep every sound at its time, so that frame f of both views is the same moment. What comes out is at any level.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Wav = NDArray[np.float32]

WINDOW, HOP = 512, 128
# Cepstral coefficients that make the envelope: up to 1.9 ms, shorter than any pitch period.
ENVELOPE_COEFFICIENTS = 30
LARGEST_GAIN_NEPER = 4.0

PITCH_SHARE, PITCH_OCTAVES = 0.7, 0.4
FORMANT_SHARE, FORMANT_RATIO = 0.8, (0.83, 1.2)
EQUALIZER_BANDS, EQUALIZER_DB = 8, 4.0
LOWPASS_SHARE, LOWPASS_HZ, LOWPASS_DB = 0.3, (3200.0, 7000.0), -40.0
HIGHPASS_SHARE, HIGHPASS_HZ, HIGHPASS_DB = 0.15, (80.0, 350.0), -30.0
ROOM_SHARE, ROOM_DECAY_S, ROOM_LEVEL = 0.35, (0.03, 0.4), (0.1, 0.7)
NOISE_SHARE, SIGNAL_TO_NOISE_DB, NOISE_SLOPE = 0.6, (5.0, 35.0), (0.0, 1.2)
MP3_SHARE, MP3_COMPRESSION, MP3_PEAK = 0.12, (0.3, 0.99), 0.5


def perturb(wav: Wav, generator: np.random.Generator) -> Wav:
    """Another view of a clip [S] at 16 kHz, as long and with every sound at the same time."""
    if not np.any(wav):
        return wav
    pitch = 2 ** generator.uniform(-PITCH_OCTAVES, PITCH_OCTAVES) if generator.random() < PITCH_SHARE else 1.0
    formants = generator.uniform(*FORMANT_RATIO) if generator.random() < FORMANT_SHARE else 1.0
    return in_another_place(another_voice(wav, pitch, formants), generator)


def in_another_place(wav: Wav, generator: np.random.Generator) -> Wav:
    """The same voice [S] over another microphone, in another room, over noise, as MP3: steps 2 to 5."""
    wav = _over_another_microphone(wav, generator)
    if generator.random() < ROOM_SHARE:
        wav = _in_a_room(wav, generator)
    if generator.random() < NOISE_SHARE:
        wav = _with_noise(wav, generator)
    if generator.random() < MP3_SHARE:
        wav = through_mp3(wav, generator.uniform(*MP3_COMPRESSION))
    return wav


def another_voice(wav: Wav, pitch: float, formants: float) -> Wav:
    """The same said with another pitch and other formants, each multiplied by its ratio: [S] -> [S]."""
    if pitch == 1.0 and formants == 1.0:
        return wav
    spectrum = _stft(wav)
    magnitude = (np.abs(spectrum) + 1e-6).astype(np.float32)
    envelope = _log_envelope(magnitude)
    if pitch != 1.0:
        magnitude, envelope, spectrum = _stretched(spectrum, magnitude, envelope, pitch)
    # Resampling will move the envelope by `pitch`: what it then has at f must come from where `formants` wants it.
    moved = _read_at(envelope.T, np.arange(envelope.shape[1], dtype=np.float64) * pitch / formants).T
    spectrum = spectrum * np.exp(np.clip(moved - envelope, -LARGEST_GAIN_NEPER, LARGEST_GAIN_NEPER))
    if pitch == 1.0:
        return _istft(spectrum, len(wav))
    stretched = _istft(spectrum, round(len(wav) * pitch))
    resampled = soxr.resample(stretched, SAMPLE_RATE_HZ * pitch, SAMPLE_RATE_HZ)
    return _as_long(resampled, len(wav))


def through_mp3(wav: Wav, compression: float) -> Wav:
    """A clip [S] after MP3, from 0 (the highest bit rate) to 1."""
    peak = float(np.abs(wav).max())
    if peak == 0:
        return wav
    file = io.BytesIO()
    scaled = wav * np.float32(MP3_PEAK / peak)
    soundfile.write(file, scaled, SAMPLE_RATE_HZ, format="MP3", compression_level=compression)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return _as_long(decoded, len(wav)) * np.float32(peak / MP3_PEAK)


def _stretched(
    spectrum: NDArray[np.complex64], magnitude: Wav, envelope: Wav, ratio: float
) -> tuple[Wav, Wav, NDArray[np.complex64]]:
    """A phase vocoder (Flanagan and Golden 1966): frames [T, F] -> magnitude, envelope, spectrum [T * ratio, F]."""
    places = np.arange(int(len(spectrum) * ratio)) / ratio
    phase = np.angle(spectrum)
    expected = 2 * np.pi * HOP * np.arange(spectrum.shape[1]) / WINDOW
    excess = np.diff(phase, axis=0) - expected
    advance = expected + excess - 2 * np.pi * np.round(excess / (2 * np.pi))
    steps = advance[np.minimum(places[:-1].astype(int), len(advance) - 1)]
    phases = np.cumsum(np.concatenate([phase[:1], steps]), axis=0)
    new = _read_at(magnitude, places)
    return new, _read_at(envelope, places), (new * np.exp(1j * phases)).astype(np.complex64)


def _log_envelope(magnitude: Wav) -> Wav:
    """The log magnitude [T, F] without its fine structure."""
    cepstrum = np.fft.irfft(np.log(magnitude), axis=1)
    cepstrum[:, ENVELOPE_COEFFICIENTS : -ENVELOPE_COEFFICIENTS + 1] = 0
    return np.fft.rfft(cepstrum, axis=1).real.astype(np.float32)


def _read_at(rows: Wav, places: NDArray[np.float64]) -> Wav:
    """Rows [N, D] at fractional places [M], by linear interpolation: [M, D]."""
    places = np.clip(places, 0, len(rows) - 1)
    before = np.minimum(places.astype(int), len(rows) - 2)
    share = (places - before)[:, None].astype(np.float32)
    between: Wav = rows[before] * (1 - share) + rows[before + 1] * share
    return between


def _over_another_microphone(wav: Wav, generator: np.random.Generator) -> Wav:
    hz = np.fft.rfftfreq(len(wav), 1 / SAMPLE_RATE_HZ)
    bands_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, EQUALIZER_BANDS)
    gain_db = np.interp(hz, bands_hz, generator.normal(0, EQUALIZER_DB, EQUALIZER_BANDS))
    if generator.random() < LOWPASS_SHARE:
        gain_db[hz > generator.uniform(*LOWPASS_HZ)] += LOWPASS_DB
    if generator.random() < HIGHPASS_SHARE:
        gain_db[hz < generator.uniform(*HIGHPASS_HZ)] += HIGHPASS_DB
    return np.fft.irfft(np.fft.rfft(wav) * 10 ** (gain_db / 20), len(wav)).astype(np.float32)


def _in_a_room(wav: Wav, generator: np.random.Generator) -> Wav:
    num_samples = int(generator.uniform(*ROOM_DECAY_S) * SAMPLE_RATE_HZ)
    echo = generator.standard_normal(num_samples) * np.exp(-6 * np.arange(num_samples) / num_samples)
    echo *= generator.uniform(*ROOM_LEVEL) / np.sqrt((echo**2).sum())
    echo[0] = 1.0
    length = len(wav) + num_samples
    return np.fft.irfft(np.fft.rfft(wav, length) * np.fft.rfft(echo, length), length)[: len(wav)].astype(np.float32)


def _with_noise(wav: Wav, generator: np.random.Generator) -> Wav:
    white = np.fft.rfft(generator.standard_normal(len(wav), np.float32))
    slope = generator.uniform(*NOISE_SLOPE)
    noise = np.fft.irfft(white * np.maximum(np.arange(len(white)), 20.0) ** (-slope / 2), len(wav))
    level = wav.std() / noise.std() * 10 ** (-generator.uniform(*SIGNAL_TO_NOISE_DB) / 20)
    noisy: Wav = wav + (level * noise).astype(np.float32)
    return noisy


def _stft(wav: Wav) -> NDArray[np.complex64]:
    """[S] -> [T, F]; frame t is centred on sample t * HOP."""
    padded = np.pad(wav, (WINDOW // 2, WINDOW // 2 + HOP))
    frames: Wav = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.fft.rfft(frames * _window(), axis=1).astype(np.complex64)


def _istft(spectrum: NDArray[np.complex64], num_samples: int) -> Wav:
    """[T, F] -> [num_samples], the inverse of _stft."""
    frames = np.fft.irfft(spectrum, WINDOW, axis=1) * _window()
    total = np.zeros((len(frames) + WINDOW // HOP - 1, HOP))
    weight = np.zeros_like(total)
    squares = _window() ** 2
    for part in range(WINDOW // HOP):
        columns = slice(part * HOP, (part + 1) * HOP)
        total[part : part + len(frames)] += frames[:, columns]
        weight[part : part + len(frames)] += squares[columns]
    wav = (total / np.maximum(weight, 1e-3)).ravel()[WINDOW // 2 :]
    return _as_long(wav.astype(np.float32), num_samples)


def _window() -> NDArray[np.float64]:
    return np.hanning(WINDOW + 1)[:-1]


def _as_long(wav: Wav, num_samples: int) -> Wav:
    return np.pad(wav[:num_samples], (0, max(0, num_samples - len(wav))))
