"""Pictures of audio: its waveform, and its mel spectrogram. Both are as wide as the audio is long."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from model.vocoder.mel import LogMel
from model.vocoder.mel_config import MelConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAVE_WIDTH, WAVE_HEIGHT = 1000, 96
# Seen on light and on dark ground.
WAVE_COLOUR = (74, 127, 214)
# Log magnitudes below the first look alike: only inaudible noise is there.
MEL_RANGE = (-8.0, 2.0)
MEL = MelConfig()
# From silence to the loudest, by equal steps.
MEL_COLOURS = (
    (10, 10, 24),
    (54, 22, 92),
    (122, 32, 110),
    (192, 56, 94),
    (238, 104, 72),
    (252, 172, 98),
    (252, 240, 190),
)


def draw_wave(wav: NDArray[np.float32]) -> bytes:
    """A PNG of the highest and lowest sample in each column of a wav [S], on a clear ground; loud ones fill it."""
    edges = np.linspace(0, len(wav), WAVE_WIDTH + 1).astype(int)[:-1].clip(max=len(wav) - 1)
    high, low = np.maximum.reduceat(wav, edges), np.minimum.reduceat(wav, edges)
    peak = max(0.05, float(np.abs(wav).max()))
    rows = np.linspace(1, -1, WAVE_HEIGHT)[:, None] * peak
    thickness = peak / WAVE_HEIGHT  # so that silence is a line
    is_drawn = (rows <= high + thickness) & (rows >= low - thickness)
    image = Image.fromarray(is_drawn.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *WAVE_COLOUR])
    return _png(image, transparency=0)


def draw_mel(wav: NDArray[np.float32]) -> bytes:
    """A PNG of the log-mel spectrogram of a wav [S] at 16 kHz: a column a frame, low bands below."""
    padded = np.pad(wav, (0, max(0, MEL.n_fft - len(wav))))
    bands = LogMel(MEL)(torch.from_numpy(padded)[None])[0].numpy()
    low, high = MEL_RANGE
    levels = ((bands[::-1] - low) / (high - low)).clip(0, 1)
    image = Image.fromarray((levels * 63).round().astype(np.uint8), "P")
    ramp = np.linspace(0, len(MEL_COLOURS) - 1, 64)
    parts = [np.interp(ramp, np.arange(len(MEL_COLOURS)), part) for part in zip(*MEL_COLOURS, strict=True)]
    image.putpalette(np.stack(parts, axis=1).round().astype(np.uint8).ravel().tolist())
    return _png(image)


def _png(image: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, **options)
    return buffer.getvalue()
