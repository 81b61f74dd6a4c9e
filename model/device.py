"""The device that models run on."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

from pipeline.errors import TwistError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]


def pick_device(wanted: Device) -> torch.device:
    """The device to use; auto is cuda if there is a GPU, else cpu.

    Raises:
        TwistError: cuda is asked for, and there is no GPU.
    """
    import torch  # here, so that commands whose options name a Device start without torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise TwistError("device is cuda, but torch finds no CUDA device here; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def warn_of_slow_bfloat16(device: torch.device) -> None:
    """Says so where `device` is a processor that cannot compute in bfloat16."""
    if device.type == "cpu" and not _has_bfloat16():
        warnings.warn(
            "this processor cannot compute in bfloat16: torch emulates it, some 50 times slower than float32; take "
            "float32 here",
            stacklevel=3,
        )


def _has_bfloat16() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
