"""Writes pages: templates filled with figures, in one folder that asks nothing of a network.

    OUTPUT/index.html, corpora.html, ...   a page each
    OUTPUT/assets/                         style, script, and Chart.js with its licence
    OUTPUT/audio/, pictures/               clips

All text of others goes through `printable` and is escaped; no page runs a script but those in assets/.
"""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.files import storage
from pipeline.printable import printable, printable_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.report.chart import Chart

ASSETS = ("style.css", "report.js", "chart.js", "chart.LICENSE.txt")
# Name of the file, and what the menu says.
PAGES = (
    ("index", "Overview"),
    ("corpora", "Corpora"),
    ("segments", "Segments"),
    ("units", "Units"),
    ("packing", "Packing"),
    ("text", "Text"),
    ("training", "Training"),
    ("evaluation", "Evaluation"),
    ("generation", "Generation"),
    ("listening", "Listening"),
)


def write_pages(output: str, figures: Mapping[str, object], about: Mapping[str, object]) -> None:
    """Writes all pages and what they need.

    Args:
        output: The folder; local or s3://.
        figures: By page; None: the page says what is to be done first.
        about: What all pages are told: `run`, `run_name`, `made`, `version`, `config`, `streams` (figures of pitch and
            style, as far as there are any) and `corpora` by name.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hours": hours, "count": count, "percent": percent, "seconds": seconds, "chart": chart_data}
    for name, title in PAGES:
        template = environment.get_template(f"{name}.html")
        page = template.render(page=name, title=title, pages=PAGES, figures=figures.get(name), **about)
        storage.write_bytes(storage.join(output, f"{name}.html"), page.encode())
    for name in ASSETS:
        content = resources.files("pipeline.report").joinpath("assets", name).read_bytes()
        storage.write_bytes(storage.join(output, "assets", name), content)


def hours(value: float | None) -> str:
    """Hours of audio with their unit; below one, minutes."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f} h"
    return f"{value:,.1f} h" if abs(value) >= 1 else f"{value * 60:,.1f} min"


def count(value: float | None) -> str:
    """A whole number; "–" where there is none."""
    return "–" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share as percent."""
    return "–" if value is None else f"{value:.1%}".replace("%", " %")


def seconds(value: float | None) -> str:
    """Seconds, minutes from 100 s on."""
    if value is None:
        return "–"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:,.1f} min"


def chart_data(chart: Chart) -> Any:
    """A chart as JSON has it, its text printable."""
    return printable_in(dataclasses.asdict(chart))


def _shown(value: Any) -> Any:
    # Markup, which is text too, is ours.
    return printable(value) if type(value) is str else value
