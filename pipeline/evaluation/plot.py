"""Runs side by side as a picture: perplexity over training steps, and over the amount of training data.

The two panels are those of figure 2 of the paper, in the other order.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.training import checkpoint_steps
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Curve:
    """The validation perplexity of one run.

    Attributes:
        name: The run's folder.
        is_warm: Whether it began from a text LM.
        steps, perplexities: At each validation.
        share: Share of the data that it was trained on.
        model: What it began from, or the shape of what it began as.
    """

    name: str
    is_warm: bool
    steps: tuple[int, ...]
    perplexities: tuple[float, ...]
    share: float
    model: str

    @property
    def best(self) -> float:
        """The lowest perplexity, by which the paper chooses a checkpoint."""
        return min((one for one in self.perplexities if math.isfinite(one)), default=math.nan)


def read_curve(run: str) -> Curve:
    """The curve of a run that was trained.

    Raises:
        TwistError: it was not trained, or has not validated.
    """
    folder = storage.join(run, "checkpoints")
    told = [line for line in read_metrics(folder) if "validation" in line]
    steps = checkpoint_steps.steps(folder)
    if not told or not steps:
        raise TwistError(f"{run} holds no training that was validated; train it first")
    settings = checkpoint_steps.load_trainer_state(folder, steps[-1])["config"]
    return Curve(
        name=run.rstrip("/").rpartition("/")[2],
        is_warm=settings["init"] is not None,
        steps=tuple(line["step"] for line in told),
        perplexities=tuple(line["validation"]["mean"]["perplexity"] for line in told),
        share=settings["data"]["share"],
        model=settings["init"] or json.dumps(settings["architecture"]),
    )


def draw(curves: Sequence[Curve], output: str) -> None:
    """Draws runs to a PNG file, local or s3://, with matplotlib; cold starts are dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for curve in curves:
        style = "-" if curve.is_warm else "--"
        left.plot(curve.steps, curve.perplexities, style, marker=".", label=curve.name)
    left.set(xlabel="steps", ylabel="validation perplexity", yscale="log")
    of_model: dict[tuple[str, bool], list[Curve]] = {}
    for curve in curves:
        of_model.setdefault((curve.model, curve.is_warm), []).append(curve)
    for (_, is_warm), several in of_model.items():
        several.sort(key=lambda curve: curve.share)
        right.plot(
            [100 * curve.share for curve in several],
            [curve.best for curve in several],
            "-" if is_warm else "--",
            marker="o",
            label=several[-1].name,
        )
    right.set(xlabel="% of the training data", ylabel="best validation perplexity", xscale="log")
    shares = sorted({curve.share for curve in curves})
    right.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
    right.minorticks_off()
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    storage.write_bytes(output, image.getvalue())
