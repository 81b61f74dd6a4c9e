"""How recordings are cut into segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import TwistError

# Durations are stored as uint16 frames of 40 ms.
LONGEST_SEGMENT_S = 2_000.0


@dataclass(frozen=True)
class SegmentConfig:
    """How recordings are cut.

    Args:
        min_s: Shortest segment, in seconds; shorter speech is dropped.
        max_s: Longest segment, in seconds (TWIST trains on samples of up to 25 s).
        max_pause_s: A longer pause, in seconds, always ends a segment.
        padding_s: Seconds of the surrounding pause that are kept at each end of detected speech.
        detect_speech: Which recordings are searched for speech if their corpus does not say where it is: all, those
            longer than max_s (long), or none. The others are taken whole, or in equal parts if they are longer.
        speech_threshold: Probability above which a window of audio counts as speech.
        work_unit_minutes: Minutes of audio that one worker takes at a time.
    """

    min_s: float = 2.0
    max_s: float = 25.0
    max_pause_s: float = 1.0
    padding_s: float = 0.1
    detect_speech: Literal["all", "long", "none"] = "long"
    speech_threshold: float = 0.5
    work_unit_minutes: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.min_s < self.max_s <= LONGEST_SEGMENT_S:
            bounds = f"0 < min_s < max_s <= {LONGEST_SEGMENT_S:g}"
            raise TwistError(f"segments need {bounds}, not min_s {self.min_s} and max_s {self.max_s}")
        if not (0 <= 2 * self.padding_s < self.max_s and self.max_pause_s > 0):
            raise TwistError(
                f"segments need 0 <= padding_s < max_s / 2 and max_pause_s > 0, not padding_s {self.padding_s} and "
                f"max_pause_s {self.max_pause_s}"
            )
        if not 0 < self.speech_threshold < 1:
            raise TwistError(f"segments.speech_threshold is a probability, not {self.speech_threshold}")
        if not self.work_unit_minutes > 0:
            raise TwistError(f"segments.work_unit_minutes must be positive, not {self.work_unit_minutes}")
