"""Models that give codes of pitch and of style beside units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from model.device import Device


class CodeModel(Protocol):
    """A model of pitch or style."""

    @property
    def rate_hz(self) -> float:
        """Codes a second."""
        ...

    @property
    def num_codes(self) -> int:
        """Above every code."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for models that give equal codes."""
        ...

    def codes(self, wav: Tensor, num_samples: Tensor) -> list[Tensor]:
        """The codes [P] int64 of clips at 16 kHz: wav [B, S], of which num_samples [B] belong to each clip."""
        ...


def load_code_models(pitch: str | None, style: str | None, device: Device = "auto") -> dict[str, CodeModel]:
    """The models that are named, as `pitch` and `style`.

    Args:
        pitch, style: The model's folder, local or s3://, or the name of an embedded one; None: no such codes.
        device: Where a model of style runs; those of pitch run on the CPU.

    Raises:
        TwistError: there is none, or it is damaged.
        RunError: it cannot be fetched.
    """
    from model.pitch.tokenizer import load_pitch_tokenizer
    from model.style.model import load_style

    models: dict[str, CodeModel] = {}
    if pitch is not None:
        models["pitch"] = load_pitch_tokenizer(pitch)
    if style is not None:
        models["style"] = load_style(style, device)
    return models
