"""The shape of a pitch tokenizer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pipeline.errors import TwistError

# Of audio at 16 kHz.
HOP_SAMPLES = 80
FRAME_RATE_HZ = 16_000 / HOP_SAMPLES

Extractor = Literal["nccf", "yaapt"]
# What the two channels are: F0 as it is or interpolated over what is unvoiced, with or without its mean; and voicing.
Features = Literal["f0_interp,vuv", "f0,vuv", "norm_f0_interp,vuv", "norm_f0,vuv"]

# Far above any such network; a damaged or hostile config would have us allocate until memory ends.
LARGEST_SIZE = 2**13
MOST_LAYERS = 16
WIDEST = 2**10


@dataclass(frozen=True)
class PitchModelConfig:
    """Shape of a pitch tokenizer, and what it sees. The defaults are the published shape.

    Args:
        features: The two channels: F0 (`f0`; `f0_interp`: interpolated over what is unvoiced; `norm_`: without the mean
            of its voiced frames) and voicing.
        extractor: What F0 comes from: nccf, this project's own; or yaapt (extra `pitch`).
        f0_scale_hz: Hz that weigh as much as voicing's step from 0 to 1; 1 as published.
        num_codes: Size of the codebook.
        code_dim: Dimensions of its vectors.
        width: Channels of the residual blocks.
        depth: Residual blocks between two changes of rate.
        hidden_share: Channels inside a block, as a multiple of `width`.
        dilation_growth: Factor by which the dilation grows from block to block.
        num_halvings: Times that the rate is halved; 4 makes 12.5 codes a second of 200 frames.
        scales_residuals: Whether blocks add 1 / sqrt(depth) of what they compute.
        reverses_dilation: Whether dilations fall in the decoder, in place of rising.
    """

    features: Features = "norm_f0_interp,vuv"
    extractor: Extractor = "nccf"
    f0_scale_hz: float = 1.0
    num_codes: int = 64
    code_dim: int = 128
    width: int = 32
    depth: int = 4
    hidden_share: float = 1.0
    dilation_growth: int = 3
    num_halvings: int = 4
    scales_residuals: bool = False
    reverses_dilation: bool = False

    def __post_init__(self) -> None:
        self._require("features", self.features in get_args(Features), f"one of {'; '.join(get_args(Features))}")
        self._require("extractor", self.extractor in get_args(Extractor), " or ".join(get_args(Extractor)))
        self._require("f0_scale_hz", 0 < self.f0_scale_hz < math.inf, "above 0")
        self._require("num_codes", 2 <= self.num_codes <= LARGEST_SIZE, f"2 to {LARGEST_SIZE}")
        for name in ("code_dim", "width"):
            self._require(name, 1 <= getattr(self, name) <= WIDEST, f"1 to {WIDEST}")
        for name in ("depth", "num_halvings"):
            self._require(name, 1 <= getattr(self, name) <= MOST_LAYERS, f"1 to {MOST_LAYERS}")
        self._require("hidden_share", 1 <= int(self.hidden_share * self.width) <= WIDEST, "above 0, and no wider")
        self._require("dilation_growth", 1 <= self.dilation_growth <= 16, "1 to 16")
        self._require("depth", self.dilation_growth**self.depth <= 2**20, "so small that dilations stay below 2^20")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise TwistError(f"pitch model: {name} is {getattr(self, name)!r}; it must be {rule}")

    @property
    def frames_per_code(self) -> int:
        """Frames of 5 ms that one code stands for."""
        return int(2**self.num_halvings)

    @property
    def rate_hz(self) -> float:
        """Codes a second."""
        return FRAME_RATE_HZ / self.frames_per_code

    def to_json(self) -> dict[str, Any]:
        """For config.json."""
        return asdict(self)
