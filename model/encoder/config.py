"""Which features are computed of speech, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import TwistError


@dataclass(frozen=True)
class EncoderConfig:
    """Which features, and how they are computed. Everything but `path` and `device` is part of the fingerprint.

    Args:
        name: mfcc (39 values at 25 Hz, no weights) or hubert.
        path: hubert: a Hugging Face folder with a HubertModel (config.json, model.safetensors), a .pt file of fairseq,
            or the name of an official model, which is fetched once (mhubert-base-25hz); mfcc: none.
        layer: hubert: the Transformer layer, counted from 1, whose output are the features (TWIST: 11).
        dtype: hubert: float32, or bfloat16: faster where the hardware has it, with slightly other features.
        device: auto takes cuda where there is one.
        max_chunk_s: longest stretch in seconds that is encoded at once; longer clips are cut (official models: 100).
        normalize: hubert: scale each waveform to zero mean and unit variance; null does as the checkpoint says.
    """

    name: Literal["mfcc", "hubert"] = "mfcc"
    path: str | None = None
    layer: int = 11
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_chunk_s: float = 100.0
    normalize: bool | None = None

    def __post_init__(self) -> None:
        if self.name not in ("mfcc", "hubert"):
            raise TwistError(f"encoder name is {self.name!r}; it must be mfcc or hubert")
        if self.dtype not in ("float32", "bfloat16"):
            raise TwistError(f"encoder dtype is {self.dtype!r}; it must be float32 or bfloat16")
        if self.device not in ("auto", "cpu", "cuda"):
            raise TwistError(f"encoder device is {self.device!r}; it must be auto, cpu or cuda")
        if not (math.isfinite(self.max_chunk_s) and self.max_chunk_s > 0):
            raise TwistError(f"encoder max_chunk_s is {self.max_chunk_s}; it must be a positive number of seconds")
        if self.layer < 1:
            raise TwistError(f"encoder layer is {self.layer}; layers count from 1")
        if self.name == "hubert" and not self.path:
            raise TwistError(
                "encoder hubert needs a path: a folder of Hugging Face's, a file of fairseq's, or an official name"
            )
        if self.name == "mfcc":
            for setting, default in (("path", None), ("layer", 11), ("dtype", "float32"), ("normalize", None)):
                if getattr(self, setting) != default:
                    raise TwistError(
                        f"encoder mfcc has no {setting}, but it is set to {getattr(self, setting)!r}; leave it out"
                    )
