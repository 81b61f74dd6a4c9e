"""The page of training: curves of one or several runs, one over the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.training.metrics import read_metrics
from pipeline.files import storage
from pipeline.report.chart import Chart, Series, line

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKPOINTS = "checkpoints"
PER_STEP = (
    ("loss", "Training loss", "nats per unit"),
    ("lr", "Learning rate", "learning rate"),
    ("tokens_per_s", "Throughput", "units per second"),
    ("grad_norm", "Gradient norm", "norm"),
)


@dataclass(frozen=True)
class TrainedRun:
    """How far a run was trained, and the perplexity of its validations: at first, at best and where, at last."""

    name: str
    num_steps: int
    num_units: int
    first_perplexity: float | None
    best_perplexity: float | None
    best_step: int | None
    last_perplexity: float | None


@dataclass(frozen=True)
class TrainingFigures:
    """All runs that were trained, this one first."""

    runs: tuple[TrainedRun, ...]
    charts: tuple[Chart, ...]


def read_training(names: Sequence[str], runs: Sequence[str]) -> TrainingFigures | None:
    """Reads the curves of some runs under their names; None where none was trained."""
    told = [(name, read_metrics(storage.join(run, CHECKPOINTS))) for name, run in zip(names, runs, strict=True)]
    told = [(name, lines) for name, lines in told if lines]
    if not told:
        return None
    charts = [
        Chart(
            "Validation perplexity by corpus", "lines", "step", "perplexity", tuple(_validations(told)), has_log_y=True
        )
    ]
    for key, title, unit in PER_STEP:
        series = []
        for name, lines in told:
            logged = [one for one in lines if key in one]
            if logged:
                series.append(line(name, [one["step"] for one in logged], [one[key] for one in logged]))
        charts.append(Chart(title, "lines", "step", unit, tuple(series)))
    return TrainingFigures(
        tuple(_summary(name, lines) for name, lines in told), tuple(chart for chart in charts if not chart.is_empty)
    )


def _validations(told: Sequence[tuple[str, list[dict[str, Any]]]]) -> list[Series]:
    """A line for each corpus of each run, and of several corpora for their mean."""
    series = []
    for run, (name, lines) in enumerate(told):
        validated = [one for one in lines if "validation" in one]
        corpora = dict.fromkeys(corpus for one in validated for corpus in one["validation"]["corpora"])
        prefix = f"{name}: " if len(told) > 1 else ""
        if len(corpora) > 1:
            means = [one["validation"]["mean"]["perplexity"] for one in validated]
            series.append(line(f"{prefix}mean", [one["step"] for one in validated], means, "mean", run))
        for corpus in corpora:
            has_it = [one for one in validated if corpus in one["validation"]["corpora"]]
            values = [one["validation"]["corpora"][corpus]["perplexity"] for one in has_it]
            series.append(line(f"{prefix}{corpus}", [one["step"] for one in has_it], values, corpus, run))
    return series


def _summary(name: str, lines: list[dict[str, Any]]) -> TrainedRun:
    validated = [(one["validation"]["mean"]["perplexity"], one["step"]) for one in lines if "validation" in one]
    best = min(validated) if validated else None
    return TrainedRun(
        name,
        max(one["step"] for one in lines),
        max((one.get("tokens", 0) for one in lines), default=0),
        validated[0][0] if validated else None,
        best[0] if best else None,
        best[1] if best else None,
        validated[-1][0] if validated else None,
    )
