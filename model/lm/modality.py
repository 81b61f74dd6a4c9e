"""What a sequence says, and what a continuation may be."""

from __future__ import annotations

from typing import Literal, get_args

Modality = Literal["text", "speech"]
OutputModality = Literal["text", "speech", "any"]
OUTPUT_MODALITIES: tuple[OutputModality, ...] = get_args(OutputModality)
