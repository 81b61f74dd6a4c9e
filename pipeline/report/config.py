"""What a report shows, and how much of the audio goes into it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import TwistError


@dataclass(frozen=True)
class ReportConfig:
    """What a report shows.

    Args:
        clips: Clips to draw of each corpus, of each reason for a drop, and pairs of duplicates.
        max_audio_mb: Megabytes of audio that the report holds at most, in all.
        max_clip_s: Seconds of audio in each clip, at most.
        has_audio: Whether it holds any audio, and pictures of audio.
        seed: Seed of the draws.
    """

    clips: int = 4
    max_audio_mb: float = 50.0
    max_clip_s: float = 20.0
    has_audio: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.clips <= 100:
            raise TwistError(f"clips are 0 to 100 of each kind, not {self.clips}")
        if not self.max_audio_mb >= 0:
            raise TwistError(f"max_audio_mb is 0 or above, not {self.max_audio_mb}")
        if not 1 <= self.max_clip_s <= 120:
            raise TwistError(f"max_clip_s is 1 to 120 s, not {self.max_clip_s}")
        if self.seed < 0:
            raise TwistError(f"the seed is 0 or above, not {self.seed}")
