"""The page of evaluation: results of checkpoints side by side, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.evaluation.results import EVALUATION, number, spread
from pipeline.evaluation.table import make_table
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.table import Row

LEVEL = 0.95


@dataclass(frozen=True)
class Cell:
    """A figure as people read it: its value, its interval, and the difference to the first column; "" where none."""

    value: str
    interval: str
    difference: str


@dataclass(frozen=True)
class EvaluationRow:
    """A measure, whether it is the one that papers print, and what they print."""

    benchmark: str
    measure: str
    is_headline: bool
    cells: tuple[Cell, ...]
    published: str


@dataclass(frozen=True)
class EvaluationFigures:
    """A table: a column a checkpoint, a row a measure."""

    columns: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]
    level: float = LEVEL

    @property
    def has_published(self) -> bool:
        """Whether papers print any of these measures."""
        return any(row.published for row in self.rows)


def read_evaluation(runs: Sequence[str], seed: int) -> EvaluationFigures | None:
    """Reads the results of some runs; None where there are none.

    Raises:
        TwistError: a result is damaged.
    """
    measured = [run for run in runs if storage.list_files(storage.join(run, EVALUATION), ".json")]
    if not measured:
        return None
    table = make_table(measured, all_measures=True, level=LEVEL, seed=seed)
    before = ""
    rows = []
    for row in table.rows:
        rows.append(_row(row, is_headline=row.benchmark != before))
        before = row.benchmark
    return EvaluationFigures(table.columns, tuple(rows))


def _row(row: Row, *, is_headline: bool) -> EvaluationRow:
    cells = []
    for figure, change in zip(row.figures, row.differences, strict=True):
        difference = "" if change is None else f"{change.value:+.3g}"
        if change is not None and change.low is not None and change.high is not None:
            difference += f" [{number(change.low)} to {number(change.high)}]"
        cells.append(Cell(number(figure.value) if figure else "", spread(figure) if figure else "", difference))
    published = ", ".join(f"{one.model} {number(one.value)}" for one in row.published)
    return EvaluationRow(row.benchmark, row.measure, is_headline, tuple(cells), published)
