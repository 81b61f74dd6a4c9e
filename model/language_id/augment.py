"""Changes how a clip sounds but not what is said, so that a recording's channel does not tell its language.

Speed, which moves pitch and formants too, then another microphone, room and noise (model/encoder/perturb.py), then a
telephone's rate or a codec: clips of a language come from few places, and each place has its own of these.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from model.encoder.perturb import in_another_place, through_mp3
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Wav = NDArray[np.float32]

SPEED_SHARE, SPEED = 0.8, (0.88, 1.12)
LONGEST_VIEW = 1 / SPEED[0]  # times as long as the clip
CODEC_SHARE = 0.5  # of clips: half of these MP3 or Opus, the others a telephone's rate
TELEPHONE_HZ, WIDEBAND_HZ = 8000, 12000
MP3_COMPRESSION, OPUS_COMPRESSION = (0.3, 0.99), (0.5, 1.0)
OPUS_PEAK = 0.5


def augment(wav: Wav, generator: np.random.Generator) -> Wav:
    """A clip [S] at 16 kHz as it might sound elsewhere; it may be longer or shorter."""
    if not np.any(wav):
        return wav
    if generator.random() < SPEED_SHARE:
        wav = soxr.resample(wav, SAMPLE_RATE_HZ * generator.uniform(*SPEED), SAMPLE_RATE_HZ, quality="LQ")
    wav = in_another_place(wav, generator)
    if generator.random() >= CODEC_SHARE:
        return wav
    kind = generator.random()
    if kind < 0.25:
        return through_mp3(wav, generator.uniform(*MP3_COMPRESSION))
    if kind < 0.5:
        return through_opus(wav, generator.uniform(*OPUS_COMPRESSION))
    return _through_rate(wav, TELEPHONE_HZ if kind < 0.85 else WIDEBAND_HZ)


def through_opus(wav: Wav, compression: float) -> Wav:
    """A clip [S] after Opus, from 0 (the highest bit rate) to 1."""
    peak = float(np.abs(wav).max()) if len(wav) else 0.0
    if peak == 0:
        return wav
    file = io.BytesIO()
    scaled = wav * np.float32(OPUS_PEAK / peak)
    soundfile.write(file, scaled, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS", compression_level=compression)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    scale = np.float32(peak / OPUS_PEAK)
    return np.pad(decoded[: len(wav)], (0, max(0, len(wav) - len(decoded)))) * scale


def _through_rate(wav: Wav, rate_hz: int) -> Wav:
    there = soxr.resample(wav, SAMPLE_RATE_HZ, rate_hz, quality="LQ")
    back: Wav = soxr.resample(there, rate_hz, SAMPLE_RATE_HZ, quality="LQ")
    return back
