"""Finds the speech in a recording with Silero's network (silero.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.audio.silero import WINDOW_SAMPLES, SileroNetwork
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE_HZ
# The rule and the numbers of silero-vad's get_speech_timestamps, without its padding. Speech ends where the probability
# falls HYSTERESIS below the threshold at which it began; a low threshold is not lowered below LOWEST_THRESHOLD.
HYSTERESIS, LOWEST_THRESHOLD = 0.15, 0.01
# Shorter gaps are closures of plosives, shorter speech is a click.
MIN_PAUSE_S = 0.1
MIN_SPEECH_S = 0.25


class SpeechDetector:
    """Finds speech in recordings; no state is carried from one to the next."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._network = SileroNetwork()

    def __call__(self, wav: NDArray[np.float32]) -> list[tuple[float, float]]:
        """Finds the speech in a wav [S] at 16 kHz, as (on, off) seconds, in order and within the wav."""
        return speech_regions(self.probabilities(wav), self._threshold, len(wav) / SAMPLE_RATE_HZ)

    def probabilities(self, wav: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability of speech in each window of 32 ms [ceil(S / 512)]; the last window is padded with zeros."""
        return self._network.probabilities(wav)


def speech_regions(
    probabilities: NDArray[np.float32], threshold: float, duration_s: float
) -> list[tuple[float, float]]:
    """Turns window probabilities [W] into (on, off) seconds.

    Speech begins at the first window that reaches the threshold. A window HYSTERESIS below it may begin a pause, which
    windows between the two thresholds neither end nor begin. It is one if a window of it that begins MIN_PAUSE_S after
    the first is as low before any reaches the threshold again; else speech goes on, through the end of the recording
    too. Speech of MIN_SPEECH_S or less is left out.
    """
    threshold_within = max(threshold - HYSTERESIS, min(threshold, LOWEST_THRESHOLD))
    regions: list[tuple[float, float]] = []
    on_s: float | None = None
    pause_s: float | None = None
    for window, probability in enumerate(probabilities.tolist()):
        start_s = window * WINDOW_S
        if probability >= threshold:
            on_s, pause_s = start_s if on_s is None else on_s, None
        elif probability < threshold_within and on_s is not None:
            pause_s = start_s if pause_s is None else pause_s
            if start_s - pause_s >= MIN_PAUSE_S:
                regions.append((on_s, pause_s))
                on_s = pause_s = None
    if on_s is not None:
        regions.append((on_s, duration_s))
    return [(on_s, off_s) for on_s, off_s in regions if off_s - on_s > MIN_SPEECH_S]
