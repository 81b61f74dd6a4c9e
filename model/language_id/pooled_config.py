"""Shape of the small classifier of spoken languages, and the file that tells it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import TwistError

CLASSIFIER = "classifier.json"


@dataclass(frozen=True)
class PooledConfig:
    """Shape of the classifier.

    Args:
        channels: Width of the convolutions.
        kernel_size: Frames that each convolution sees; odd.
        attention_channels: Width of the layer that weighs frames.
        hidden_size: Width of the layer before the logits.
    """

    channels: int = 64
    kernel_size: int = 5
    attention_channels: int = 64
    hidden_size: int = 64

    def __post_init__(self) -> None:
        for name in ("channels", "kernel_size", "attention_channels", "hidden_size"):
            if not 1 <= getattr(self, name) <= 2**12:
                raise TwistError(f"train_language.model.{name} is {getattr(self, name)}; it must be 1 to 4096")
        if self.kernel_size % 2 == 0:
            raise TwistError(f"train_language.model.kernel_size is {self.kernel_size}; it must be odd")
