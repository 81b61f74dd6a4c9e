"""Waveforms and their mel spectrograms side by side, as a PNG; needs matplotlib (the extra `plots`)."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.vocoder.mel import LogMel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from model.vocoder.mel_config import MelConfig

DOTS_PER_INCH = 80
NUM_COLOURS = 64
WIDTH_INCHES, ROW_HEIGHT_INCHES = 11.0, 1.7
# Below this, a log-mel spectrogram shows only inaudible noise.
QUIETEST = -8.0


def is_available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(path: Path, wavs: Mapping[str, NDArray[np.float32]], mel: MelConfig) -> None:
    """Draws each wav [S] and its log-mel spectrogram side by side, one named row per wav, all on one time scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    log_mel = LogMel(mel)
    longest_s = max(map(len, wavs.values())) / mel.sample_rate_hz
    figure = Figure(figsize=(WIDTH_INCHES, ROW_HEIGHT_INCHES * len(wavs)), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(len(wavs), 2, squeeze=False, sharex=True)
    for (left, right), (name, wav) in zip(axes, wavs.items(), strict=True):
        duration_s = len(wav) / mel.sample_rate_hz
        left.plot(np.arange(len(wav)) / mel.sample_rate_hz, wav, linewidth=0.4)
        left.set(ylabel=name, ylim=(-1, 1), xlim=(0, longest_s), yticks=[])
        image = log_mel(torch.from_numpy(np.array(wav, np.float32))[None])[0].numpy()
        extent = (0, duration_s, 0, mel.num_mels)
        right.imshow(image, aspect="auto", origin="lower", extent=extent, vmin=QUIETEST, cmap="magma")
        right.set(xlim=(0, longest_s), yticks=[])
    for axis in axes[-1]:
        axis.set_xlabel("s")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    drawn = Image.fromarray(pixels).convert("RGB")
    drawn.quantize(NUM_COLOURS).save(path, format="PNG", optimize=True)  # a third of the size
