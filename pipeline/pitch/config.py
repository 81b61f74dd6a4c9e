"""Settings of the pitch stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PitchConfig:
    """What turns segments into codes of pitch.

    Args:
        model: A pitch tokenizer: pitch-tiny, which comes with this project; a folder of `twist train-pitch`; or one
            of the published layout (config.yaml and model.pt); local or s3://. Null: a run has no pitch.
        extractor: What F0 comes from: nccf, this project's own, or yaapt (extra `pitch`). Null: what the tokenizer was
            trained on, which is yaapt for the published one.
    """

    model: str | None = None
    extractor: Literal["nccf", "yaapt"] | None = None
