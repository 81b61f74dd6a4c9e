"""Which style model a run takes, and how one of its own is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.device import Device
from pipeline.errors import TwistError


@dataclass(frozen=True)
class StyleConfig:
    """Which model gives each second of speech a code of style.

    Args:
        model: A folder of `twist train-style` or of transformers' Wav2Vec2ForSequenceClassification, as Meta released
            SpiRit-LM's, local or s3://; or the embedded style-tiny-25hz. null: no style.
        device: Where it runs; auto uses cuda if there is a GPU.
    """

    model: str | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.model == "":
            raise TwistError("style.model is empty; name a folder, or leave it out")


@dataclass(frozen=True)
class StyleTrainConfig:
    """How a style model is fitted to the encoder's features, averaged over each second.

    Args:
        method: kmeans: codes are clusters, no labels needed. linear: codes are labels, told apart by a linear layer.
        num_codes: kmeans: how many clusters (SpiRit-LM: 100).
        labels: linear: `speaker`, the manifest's as a stand-in; or a CSV file with columns `recording` (its id, or the
            end of it) and `label`.
        max_hours: Hours of audio to fit on, drawn from all segments.
        penalty: linear: weight of the squared weights in the loss.
        seed: Seed of every draw.
    """

    method: Literal["kmeans", "linear"] = "kmeans"
    num_codes: int = 100
    labels: str | None = None
    max_hours: float = 10.0
    penalty: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("kmeans", "linear"):
            raise TwistError(f"train_style.method is {self.method!r}; it must be kmeans or linear")
        if (self.method == "linear") != (self.labels is not None):
            raise TwistError("train_style.labels are for method linear, which needs them: `speaker`, or a CSV file")
        if not 2 <= self.num_codes <= 2**16:
            raise TwistError(f"train_style.num_codes is {self.num_codes}; it must be 2 to 65536")
        if not self.max_hours > 0 or not self.penalty >= 0:
            raise TwistError("train_style.max_hours must be above 0, and penalty at least 0")
