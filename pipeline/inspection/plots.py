"""Pictures for `twist inspect --plots`: how often units occur, and how long samples are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

SIZE_INCHES = (8, 4.5)


def write_plots(description: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws what a description of units, of shards or of a run with either holds; gives the files' paths.

    Raises:
        TwistError: matplotlib is not installed, the folder cannot be written to, or there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TwistError("--plots needs matplotlib; install this project's extra `plots`") from None
    stages = description.get("stages", {})
    told = next((d for d in (description, stages.get("shards"), stages.get("units")) if d and _is_drawable(d)), None)
    if told is None:
        raise TwistError("--plots draws units and shards, and finds neither here; name a run or a folder with them")
    drawings = {"unit-histogram": _unit_histogram, "zipf": _zipf}
    if "samples_s_histogram" in told:
        drawings |= {"lengths-seconds": _seconds, "lengths-units": _units}
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in drawings.items():
            figure = Figure(figsize=SIZE_INCHES, layout="constrained")
            draw(figure.add_subplot(), told)
            paths.append(str(folder / f"{name}.png"))
            figure.savefig(paths[-1], dpi=120)
    except OSError as error:
        raise TwistError(f"cannot write pictures into {folder}: {error.strerror or error}") from error
    return paths


def _is_drawable(description: Mapping[str, Any]) -> bool:
    return any(description.get("unit_histogram", ()))


def _unit_histogram(axes: Axes, description: Mapping[str, Any]) -> None:
    counts = description["unit_histogram"]
    axes.bar(np.arange(len(counts)), counts, width=1.0)
    axes.set(xlabel="unit", ylabel="occurrences", title=f"{sum(counts):,} units of {len(counts)} kinds")


def _zipf(axes: Axes, description: Mapping[str, Any]) -> None:
    counts = np.sort(np.array([count for count in description["unit_histogram"] if count]))[::-1]
    ranks = np.arange(1, len(counts) + 1)
    axes.loglog(ranks, counts / counts.sum(), label="units")
    axes.loglog(ranks, 1 / ranks / (1 / ranks).sum(), "--", label="Zipf's law")
    axes.set(xlabel="rank", ylabel="share", title="Units from the most to the least frequent")
    axes.legend()


def _seconds(axes: Axes, description: Mapping[str, Any]) -> None:
    _lengths(axes, description["samples_s_histogram"], "seconds")


def _units(axes: Axes, description: Mapping[str, Any]) -> None:
    _lengths(axes, description["samples_units_histogram"], "units")


def _lengths(axes: Axes, histogram: Mapping[str, Any], unit: str) -> None:
    axes.stairs(histogram["counts"], histogram["edges"], fill=True)
    axes.set(xlabel=unit, ylabel="samples", title=f"Lengths of {sum(histogram['counts']):,} samples")
