"""Draws a training curve: loss and validation loss over steps and over units."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from model.training.metrics import read_metrics
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "curve.png"


def draw_curve(folder: str) -> str | None:
    """Draws FOLDER/metrics.jsonl to FOLDER/curve.png (local or s3://) with matplotlib.

    Returns:
        The picture's URI; None if nothing was logged.
    """
    from matplotlib.figure import Figure

    lines = read_metrics(folder)
    losses = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    if not losses:
        return None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    tokens_at = np.array([(0, 0), *((line["step"], line["tokens"]) for line in losses)])
    _draw(left, [line["step"] for line in losses], losses, [line["step"] for line in validations], validations)
    of_validations = np.interp([line["step"] for line in validations], *tokens_at.T)
    _draw(right, [line["tokens"] for line in losses], losses, of_validations.tolist(), validations)
    left.set(xlabel="steps", ylabel="nats per unit")
    right.set(xlabel="units")
    right.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    uri = storage.join(folder, NAME)
    storage.write_bytes(uri, image.getvalue())
    return uri


def _draw(
    axes: Any,
    places: Sequence[float],
    losses: Sequence[dict[str, Any]],
    validation_places: Sequence[float],
    validations: Sequence[dict[str, Any]],
) -> None:
    axes.plot(places, [line["loss"] for line in losses], color="silver", linewidth=1, label="loss")
    corpora = validations[0]["validation"]["corpora"] if validations else {}
    for corpus in corpora:
        nats = [line["validation"]["corpora"][corpus]["nats_per_unit"] for line in validations]
        axes.plot(validation_places, nats, marker=".", label=f"validation, {corpus}")
    axes.grid(alpha=0.3)
