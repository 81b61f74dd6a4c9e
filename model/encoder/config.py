"""Settings of the encoder: which features to compute from speech, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import TwistError


@dataclass(frozen=True)
class EncoderConfig:
    """Which features to compute, and how. All settings but `path` and `device` are part of the fingerprint.

    Args:
        name: mfcc (39 values at 25 Hz, no weights) or hubert.
        path: hubert: a Hugging Face folder with a HubertModel (config.json, model.safetensors) or a fairseq .pt file,
            local or s3://, or the name of an official model, which is downloaded once (mhubert-base-25hz); mfcc: leave
            it out.
        layer: hubert: the Transformer layer whose output is used as features, counted from 1 (TWIST: 11).
        dtype: hubert: float32, or bfloat16: faster on hardware that supports it, with slightly other features.
        device: auto uses cuda if there is a GPU.
        max_chunk_s: longest stretch to encode at once, in seconds; longer clips are cut (official models: 100).
        normalize: hubert: scale each waveform to zero mean and unit variance; null: as the checkpoint says.
        level_dbfs: scale each waveform as a whole to this RMS level, in dB below full scale (-80 to 0), so that units
            do not depend on loudness; unchanged: take it as it is; null: as the checkpoint says (the embedded model
            has a level, official ones have none).
    """

    name: Literal["mfcc", "hubert"] = "mfcc"
    path: str | None = None
    layer: int = 11
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_chunk_s: float = 100.0
    normalize: bool | None = None
    level_dbfs: float | Literal["unchanged"] | None = None

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
        level = self.level_dbfs
        if isinstance(level, str) and level != "unchanged":
            raise TwistError(f"encoder level_dbfs is {level!r}; it must be a number of dB, unchanged or null")
        if not (level is None or isinstance(level, str) or -80 <= level <= 0):
            raise TwistError(f"encoder level_dbfs is {level}; it must be from -80 to 0")
        if self.normalize and level is not None and level != "unchanged":
            raise TwistError(
                "encoder level_dbfs is of no use with normalize, which scales waveforms too; leave one out"
            )
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
