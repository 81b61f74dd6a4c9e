"""Loads the models that give codes of pitch and of style beside units."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.code_model import CodeModel
    from model.device import Device
    from model.pitch.model_config import Extractor


def load_code_models(
    pitch: str | None, style: str | None, device: Device = "auto", extractor: Extractor | None = None
) -> dict[str, CodeModel]:
    """The models that are named, as `pitch` and `style`.

    Args:
        pitch, style: The model's folder, local or s3://, or the name of an embedded one; None: no such codes.
        device: Where a model of style runs; those of pitch run on the CPU.
        extractor: What F0 comes from; None: what the model of pitch was trained on.

    Raises:
        TwistError: there is none, or it is damaged.
        RunError: it cannot be fetched.
    """
    from model.pitch.tokenizer import load_pitch_tokenizer
    from model.style.model import load_style

    models: dict[str, CodeModel] = {}
    if pitch is not None:
        models["pitch"] = load_pitch_tokenizer(pitch, extractor)
    if style is not None:
        models["style"] = load_style(style, device)
    return models
