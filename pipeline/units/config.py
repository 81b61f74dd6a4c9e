"""Settings of the codebook stage."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import TwistError


@dataclass(frozen=True)
class CodebookConfig:
    """How to fit the codebook, or which existing one to use.

    Args:
        num_units: Size of the codebook, K (TWIST: 500).
        path: Codebook to use instead of fitting one: another run's codebook folder, a .npy file of centroids [K, D], a
            fairseq k-means (.bin), or an official name, which is downloaded (mhubert-base-25hz-km500).
        max_hours: Hours of audio to encode for the fit, drawn from all segments.
        max_frames: Frames to fit the centroids on, drawn evenly from these hours.
        num_iterations: Lloyd iterations over all drawn frames, after those over samples of them.
        seed: Seed of every draw.
    """

    num_units: int = 500
    path: str | None = None
    max_hours: float = 100.0
    max_frames: int = 1_000_000
    num_iterations: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.num_units <= 2**16:
            raise TwistError(
                f"codebook.num_units is {self.num_units}; it must be 2 to 65536 (units are stored as uint16)"
            )
        if self.max_hours <= 0 or self.max_frames < 1 or self.num_iterations < 1:
            raise TwistError("codebook.max_hours, max_frames and num_iterations must be positive")
        if self.path is not None:
            for name in ("max_hours", "max_frames", "num_iterations", "seed"):
                if getattr(self, name) != getattr(CodebookConfig, name):
                    raise TwistError(
                        f"codebook.{name} is of no use with codebook.path, which takes a codebook as it is"
                    )
