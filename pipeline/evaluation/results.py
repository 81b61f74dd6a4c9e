"""What a benchmark gives, and the files that hold it.

RUN/evaluation/<checkpoint>/<name>.json        figures with intervals, settings, fingerprints, what was left out
RUN/evaluation/<checkpoint>/<name>.parquet     a row an item: its scores, from which every figure can be had again
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import TwistError, brief
from pipeline.evaluation.measures import GROUP, Figure, Measure, figure, require_columns
from pipeline.files import foreign_json, parquet, storage
from pipeline.printable import printable
from pipeline.text_table import in_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FORMAT_VERSION = 1
EVALUATION = "evaluation"
# Items left out that a result names; all of them stand in its counts.
NAMED_AT_MOST = 20
# A note of results on `twist make-benchmark mini`.
OUR_OWN = "A small benchmark of our own making: for comparing small models, not for comparing with papers."


@dataclass(frozen=True)
class LeftOut:
    """An item without a score: missing, unreadable, too short. `reason` as where audio is dropped."""

    item_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Result:
    """A benchmark's outcome for one subject.

    Attributes:
        benchmark: Its name, as on the command line.
        subject: The checkpoint, or the codebook or voice, that was measured.
        measures: What can be told of the items; the first is what papers print.
        figures: The value of each measure, by its name.
        items: A row an item.
        rule: The published rule that the first measure follows, in words.
        settings: All settings that change a figure.
        fingerprints: Of what went in: `data`, `codebook`, `model`.
        left_out: Items without a score.
        notes: What a reader should know, in sentences.
    """

    benchmark: str
    subject: str
    measures: tuple[Measure, ...]
    figures: dict[str, Figure]
    items: pa.Table
    rule: str
    settings: dict[str, Any]
    fingerprints: dict[str, str | None]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> Figure:
        """The figure that papers print."""
        return self.figures[self.measures[0].name]


@dataclass(frozen=True)
class Told:
    """A result as its JSON tells it; `items_uri` is the file of its items."""

    benchmark: str
    subject: str
    measures: tuple[Measure, ...]
    figures: dict[str, Figure]
    settings: dict[str, Any]
    fingerprints: dict[str, str | None]
    rule: str
    left_out: dict[str, int]
    items_uri: str
    notes: tuple[str, ...] = field(default=())

    def items(self) -> pa.Table:
        """The scores of the items.

        Raises:
            TwistError: the file is damaged.
        """
        return parquet.read(self.items_uri)


def result_of(
    benchmark: str,
    subject: str,
    measures: Sequence[Measure],
    items: pa.Table,
    *,
    rule: str,
    settings: dict[str, Any],
    fingerprints: dict[str, str | None],
    level: float,
    seed: int,
    left_out: Iterable[LeftOut] = (),
    notes: Sequence[str] = (),
) -> Result:
    """A result with all its figures.

    Raises:
        TwistError: no item has a score.
    """
    require_columns(items, measures)
    left_out = tuple(left_out)
    if not len(items):
        why = f": {left_out[0].item_id} is {left_out[0].reason} ({left_out[0].detail})" if left_out else ""
        raise TwistError(f"{benchmark}: none of {len(left_out)} items has a score{why}")
    figures = {measure.name: figure(items, measure, level=level, seed=seed) for measure in measures}
    # Of what no item counts for there is no figure: nobody could read a NaN in JSON.
    measures = [measure for measure in measures if figures[measure.name].num_items]
    figures = {measure.name: figures[measure.name] for measure in measures}
    settings = {**settings, "interval_level": level, "seed": seed}
    return Result(
        benchmark,
        subject,
        tuple(measures),
        figures,
        items,
        rule,
        settings,
        fingerprints,
        left_out,
        tuple(notes),
    )


def as_json(result: Result) -> dict[str, Any]:
    """A result without its items, as its JSON has it."""
    return {
        "format_version": FORMAT_VERSION,
        "benchmark": result.benchmark,
        "subject": result.subject,
        "figures": {name: _finite(asdict(figure)) for name, figure in result.figures.items()},
        "rule": result.rule,
        "settings": result.settings,
        "fingerprints": result.fingerprints,
        "left_out": dict(sorted(Counter(item.reason for item in result.left_out).items())),
        "left_out_named": [asdict(item) for item in result.left_out[:NAMED_AT_MOST]],
        "notes": result.notes,
        "measures": [asdict(measure) for measure in result.measures],
    }


def _finite(figure: dict[str, Any]) -> dict[str, Any]:
    """A figure with null for what JSON has no number for, such as the perplexity of a model that excludes a unit."""
    return {name: value if math.isfinite(value or 0) else None for name, value in figure.items()}


def write(folder: str, result: Result) -> str:
    """Writes a result's two files into a folder, unless they are there; returns the URI of its JSON, written last."""
    items_uri, uri = (storage.join(folder, f"{result.benchmark}.{suffix}") for suffix in ("parquet", "json"))
    content = (json.dumps(as_json(result), indent=2) + "\n").encode()
    if not (storage.exists(items_uri) and storage.exists(uri) and storage.read_bytes(uri) == content):
        storage.delete(uri)
        parquet.write(items_uri, result.items)
        storage.write_bytes(uri, content)
    return uri


def read(uri: str) -> Told:
    """Reads a result's JSON.

    Raises:
        TwistError: it is none, or is damaged.
    """
    try:
        content = foreign_json.parse(storage.read_bytes(uri))
        return Told(
            content["benchmark"],
            content["subject"],
            tuple(_measure(measure) for measure in content["measures"]),
            {name: _figure(figure) for name, figure in content["figures"].items()},
            content["settings"],
            content["fingerprints"],
            content["rule"],
            content["left_out"],
            uri.removesuffix(".json") + ".parquet",
            tuple(content["notes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TwistError(f"{uri} is no result of an evaluation, or is damaged ({error}); measure once more") from error


def _measure(told: dict[str, Any]) -> Measure:
    """A measure as JSON tells it; damage is a TypeError."""
    measure = Measure(**told)
    if not all(value is None or isinstance(value, str | bool) for value in asdict(measure).values()):
        raise TypeError(f"the measure {brief(told)} is made of other things than names")
    return measure


def _figure(told: dict[str, Any]) -> Figure:
    """A figure as JSON tells it; damage is a TypeError."""
    numbers = {name: value for name, value in told.items() if value is not None}
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers.values()):
        raise TypeError(f"the figure {brief(told)} is made of other things than numbers")
    return Figure(**{**told, "value": numbers.get("value", math.nan)})


def as_text(result: Result) -> str:
    """A result for people: a line a measure, then what was left out."""
    rows = []
    for measure in result.measures:
        figure = result.figures[measure.name]
        rows.append((measure.name, number(figure.value), spread(figure), f"{figure.num_items:,} items"))
    lines = [f"{result.benchmark}: {result.subject} ({result.rule})", *in_columns(rows)]
    groups = result.items[GROUP].unique()
    if len(groups) == 1:
        lines.append(f"no intervals: they are drawn from groups, and all items are of one, {groups[0]}")
    reasons = Counter(item.reason for item in result.left_out)
    for reason, count in sorted(reasons.items()):
        example = next(item for item in result.left_out if item.reason == reason)
        lines.append(f"left out: {count:,} {reason}, e.g. {example.item_id} ({example.detail})")
    return "\n".join(map(printable, [*lines, *result.notes]))


def number(value: float) -> str:
    """A figure with four digits that count."""
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def spread(figure: Figure) -> str:
    """A figure's interval."""
    return "" if figure.low is None or figure.high is None else f"{number(figure.low)} to {number(figure.high)}"
