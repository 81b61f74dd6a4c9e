"""Charts as plain data; assets/report.js hands them to Chart.js."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# Of a chart's series; the smallest of more are summed up.
MOST_SERIES = 8
MOST_POINTS = 400


@dataclass(frozen=True)
class Series:
    """What has one colour.

    Attributes:
        name: As the legend says it.
        values: Of bars: one a label. Of lines and points: y.
        places: Of lines and points: x.
        colours: Of points: one each; else the chart's palette colours the series.
        texts: Of points: what is said of each.
        subject: Of lines: what has the same colour in other series; "": nothing.
        run: Of lines: which run's, counted from 0; each has dashes of its own.
    """

    name: str
    values: tuple[float, ...]
    places: tuple[float, ...] = ()
    colours: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    subject: str = ""
    run: int = 0


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: What it shows, in words.
        kind: Which of Chart.js' charts.
        x, y: What the axes measure, with units.
        labels: Of bars: one a place.
        is_stacked, is_sideways: Of bars.
        has_log_y: Whether y is logarithmic.
    """

    title: str
    kind: Literal["bars", "lines", "points"]
    x: str
    y: str
    series: tuple[Series, ...]
    labels: tuple[str, ...] = ()
    is_stacked: bool = False
    is_sideways: bool = False
    has_log_y: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(any(series.values) for series in self.series)


def histogram(title: str, x: str, y: str, labels: Sequence[str], counts: Mapping[str, NDArray[np.number]]) -> Chart:
    """Stacked bars of counts [bins] by name; the smallest of many names are drawn as one.

    Empty bins before the first and behind the last value are left out, and names of which nothing is counted.
    """
    counts = {name: values for name, values in counts.items() if values.any()}
    filled = np.flatnonzero(sum(counts.values())) if counts else np.zeros(1, int)
    shown = slice(int(filled[0]), int(filled[-1]) + 1)
    series = _largest({name: values[shown] for name, values in counts.items()})
    return Chart(title, "bars", x, y, series, tuple(labels[shown]), is_stacked=True)


def hours_chart(title: str, labels: Sequence[str], hours: Mapping[str, Sequence[float]], y: str = "") -> Chart:
    """Sideways stacked bars of hours [labels] by name; in minutes where no bar is an hour long."""
    longest_h = max((sum(bar) for bar in zip(*hours.values(), strict=True)), default=0.0)
    unit, factor = ("hours", 1) if longest_h >= 1 else ("minutes", 60)
    series = tuple(Series(name, tuple(factor * value for value in values)) for name, values in hours.items())
    return Chart(title, "bars", unit, y, series, tuple(labels), is_stacked=True, is_sideways=True)


def line(name: str, places: Sequence[float], values: Sequence[float], subject: str = "", run: int = 0) -> Series:
    """A line through at most MOST_POINTS of its points: evenly chosen, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(places) - 1, min(len(places), MOST_POINTS)).round().astype(int))
    shown = (tuple(values[i] for i in chosen), tuple(places[i] for i in chosen))
    return Series(name, *shown, subject=subject, run=run)


def _largest(counts: Mapping[str, NDArray[np.number]]) -> tuple[Series, ...]:
    names = sorted(counts, key=lambda name: (-float(counts[name].sum()), name))
    named = names if len(names) <= MOST_SERIES else names[: MOST_SERIES - 1]
    series = [Series(name, tuple(counts[name].tolist())) for name in named]
    if rest := names[len(named) :]:
        total = np.sum([counts[name] for name in rest], axis=0)
        series.append(Series(f"{len(rest)} more", tuple(total.tolist())))
    return tuple(series)
