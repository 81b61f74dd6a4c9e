"""Results of several runs and checkpoints side by side, with differences to the first and what papers print."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError
from pipeline.evaluation import results
from pipeline.evaluation.measures import Difference, difference
from pipeline.evaluation.published import PUBLISHED, Published
from pipeline.evaluation.results import EVALUATION, OUR_OWN, Told, number, spread
from pipeline.files import storage
from pipeline.printable import printable
from pipeline.text_table import in_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.evaluation.measures import Figure, Measure

# Settings that change no item's score. A folder may be called otherwise on another machine; the items decide.
NOT_OF_SCORES = ("folder", "source", "seed", "interval_level")


@dataclass(frozen=True)
class Row:
    """A measure of all results.

    Attributes:
        benchmark, measure: Which.
        figures: By column; None where a column has no such result.
        differences: To the first column; None for it, and where the two cannot be compared.
        reasons: Why they cannot be, by column.
        published: What papers print.
    """

    benchmark: str
    measure: str
    figures: tuple[Figure | None, ...]
    differences: tuple[Difference | None, ...]
    reasons: tuple[str, ...]
    published: tuple[Published, ...]


@dataclass(frozen=True)
class Table:
    """Columns (a checkpoint each) and rows (a measure each)."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def find_results(place: str) -> dict[str, list[Told]]:
    """The results below a run, an evaluation's folder, or a checkpoint's folder in it, by checkpoint.

    Raises:
        TwistError: there are none, or one is damaged.
    """
    folder = storage.join(place, EVALUATION)
    if not storage.has_files(folder):
        folder = place
    found: dict[str, list[Told]] = {}
    for name in storage.list_files(folder, ".json"):
        above, _, file = name.rpartition("/")
        # A result has its items beside it; other JSON, of a run's stages for one, has not.
        if "/" in above or not storage.exists(storage.join(folder, above, f"{file.removesuffix('.json')}.parquet")):
            continue
        told = results.read(storage.join(folder, name))
        found.setdefault(above or folder.rstrip("/").rpartition("/")[2], []).append(told)
    if not found:
        raise TwistError(f"{place} holds no results; `twist evaluate NAME --run {place}` makes some")
    return found


def make_table(places: Sequence[str], *, all_measures: bool, level: float, seed: int) -> Table:
    """Sets results side by side.

    Args:
        places: Runs, or folders of results.
        all_measures: All measures of each benchmark; else the one that papers print.
        level: Of the intervals of differences.
        seed: Of their draws.

    Raises:
        TwistError: a place holds no results, or one is damaged.
    """
    paths: list[str] = []
    of_column: list[dict[str, Told]] = []
    for place in places:
        for checkpoint, told in sorted(find_results(place).items()):
            paths.append(f"{_run_of(place, checkpoint)}/{checkpoint}")
            of_column.append({one.benchmark: one for one in told})
    return Table(_short_names(paths), tuple(_rows(of_column, all_measures, level, seed)))


def _run_of(place: str, checkpoint: str) -> str:
    """The run that a place lies in: it may be named itself, or its evaluation, or a checkpoint's folder there."""
    return storage.absolute(place).rstrip("/").removesuffix(f"/{checkpoint}").removesuffix(f"/{EVALUATION}")


def _short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """The last two parts of each path, or as many more as tell all that differ apart."""
    parts = [path.split("/") for path in paths]
    for length in range(2, max(map(len, parts), default=2) + 1):
        names = tuple("/".join(one[-length:]) for one in parts)
        if len(set(names)) == len(set(paths)):
            break
    return names


def _rows(of_column: list[dict[str, Told]], all_measures: bool, level: float, seed: int) -> Iterator[Row]:
    benchmarks = dict.fromkeys(name for column in of_column for name in column)
    for benchmark in benchmarks:
        told = [column.get(benchmark) for column in of_column]
        measures: dict[str, Measure] = {}
        for one in filter(None, told):
            wanted = one.measures if all_measures else one.measures[:1]
            measures.update({measure.name: measure for measure in wanted})
        for name, measure in measures.items():
            figures = tuple(one.figures.get(name) if one else None for one in told)
            compared = [_compare(told[0], one, measure, level, seed) for one in told]
            # What papers print stands beside figures on their data alone.
            is_theirs = any(one is not None and OUR_OWN not in one.notes for one in told)
            published = tuple(
                one for one in PUBLISHED if is_theirs and (one.benchmark, one.measure) == (benchmark, name)
            )
            yield Row(
                benchmark,
                name,
                figures,
                tuple(outcome if isinstance(outcome, Difference) else None for outcome in compared),
                tuple("" if isinstance(outcome, Difference) else outcome for outcome in compared),
                published,
            )


def _compare(first: Told | None, second: Told | None, measure: Measure, level: float, seed: int) -> Difference | str:
    """The difference of two results, or why there is none."""
    if first is None or second is None or first is second:
        return ""
    if measure.name not in first.figures or measure.name not in second.figures:
        return "no such figure"
    unlike = [key for key in first.settings if first.settings[key] != second.settings.get(key)]
    if unlike := [key for key in unlike if key not in NOT_OF_SCORES]:
        return f"scored with other settings ({', '.join(unlike)})"
    if first.benchmark.startswith("perplexity") and first.fingerprints["data"] != second.fingerprints["data"]:
        return "measured on other units: their perplexities say nothing of each other"
    try:
        return difference(first.items(), second.items(), measure, level=level, seed=seed)
    except TwistError as error:
        return str(error)


def as_rows(table: Table) -> list[list[str]]:
    """The table as cells of printable text, its head first."""
    head = ["benchmark", "measure", *table.columns]
    rows = [head]
    for row in table.rows:
        cells = [row.benchmark, row.measure]
        for figure, change in zip(row.figures, row.differences, strict=True):
            cells.append(_cell(figure, change))
        rows.append(cells)
    return [list(map(printable, row)) for row in rows]


def _cell(figure: Figure | None, change: Difference | None) -> str:
    if figure is None:
        return ""
    interval = spread(figure)
    text = number(figure.value) + (f" [{interval}]" if interval else "")
    if change is None:
        return text
    between = "" if change.low is None or change.high is None else f" [{number(change.low)} to {number(change.high)}]"
    return f"{text}, {change.value:+.4g}{between}"


def as_text(table: Table) -> str:
    """The table for a terminal."""
    rows = as_rows(table)
    return "\n".join([*in_columns(rows, range(len(rows[0]))), *map(printable, _remarks(table))])


def as_markdown(table: Table) -> str:
    """The table in Markdown."""
    head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in as_rows(table))
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", *map(printable, _remarks(table))])


def as_json(table: Table) -> dict[str, Any]:
    """The table as JSON has it."""
    return asdict(table)


def _remarks(table: Table) -> list[str]:
    lines = ["Behind each figure its interval; in later columns also the difference to the first one, with its own."]
    if alone := [
        row for row in table.rows if any(one and one.low is None and one.num_groups == 1 for one in row.figures)
    ]:
        names = ", ".join(dict.fromkeys(row.benchmark for row in alone))
        lines.append(f"Without an interval: figures of one group alone, such as one speaker ({names}).")
    for row in table.rows:
        for column, reason in zip(table.columns, row.reasons, strict=True):
            if reason:
                lines.append(f"{row.benchmark}, {row.measure}: {column} is not compared: {reason}")
    for row in table.rows:
        for source in dict.fromkeys((one.source, one.rule) for one in row.published):
            of_source = [one for one in row.published if (one.source, one.rule) == source]
            printed = ", ".join(f"{one.model} {number(one.value)}" for one in of_source)
            lines.append(f"{row.benchmark}, {row.measure}, as printed in {source[0]} (scoring: {source[1]}): {printed}")
    return lines
