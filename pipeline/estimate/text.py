"""An estimate for a person to read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.printable import printable
from pipeline.text_table import in_columns

if TYPE_CHECKING:
    from pipeline.estimate.project import Estimate, Range

MAX_DROPS = 6


def as_text(estimate: Estimate, *, days: float | None, price_per_hour: float | None) -> str:
    """The estimate as a table.

    Args:
        estimate: What to tell.
        days: In how many days it is to be done: says how many machines that takes.
        price_per_hour: Of one machine like this one.
    """
    machine = estimate.machine
    kind = f"{machine.num_cores:g} cores" + (f" and {machine.num_gpus:g} GPUs" if machine.num_gpus else ", no GPU")
    drops = [(name, told) for name, told in estimate.amounts.items() if name.startswith("dropped")]
    rows = [
        [f"of {_number(estimate.corpus_hours)} h", "", "95% range"],
        *(_row(name, told, "") for name, told in estimate.amounts.items() if not name.startswith("dropped")),
        *(_row(name, told, "h") for name, told in sorted(drops, key=lambda drop: -drop[1].value)[:MAX_DROPS]),
        ["", "", ""],
        *(_row(f"{command}, cores", told, "h") for command, told in estimate.core_hours.items()),
        *(_row(f"{command}, GPUs", told, "h") for command, told in estimate.gpu_hours.items()),
        _row("this machine alone", estimate.wall_hours, "h"),
    ]
    if days is not None:
        rows.append(_row(f"machines for {days:g} day{'s'[: days != 1]}", estimate.machines_for(days), ""))
    if price_per_hour is not None:
        rows.append(_row("price", estimate.wall_hours.times(price_per_hour), ""))
    rows += [["", "", ""], *(_row(f"{folder}/", told, "GB") for folder, told in estimate.stored_gb.items())]
    told_of = f"{_number(estimate.sample_hours)} h in {estimate.num_parts} parts, worked on by {kind}"
    return "\n".join(map(printable, [f"from {told_of}", *in_columns(rows, left_aligned=(0, 2))]))


def _row(name: str, told: Range, measure: str) -> list[str]:
    after = f" {measure}" if measure else ""
    interval = "unknown: one part" if math.isnan(told.low) else f"{_number(told.low)} to {_number(told.high)}"
    return [name, f"{_number(told.value)}{after}", interval]


def _number(value: float) -> str:
    """Three digits, and names for large numbers: an estimate has no more."""
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{_rounded(value / size)}{name}"
    return _rounded(value)


def _rounded(value: float) -> str:
    value = float(f"{value:.3g}")
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
