"""The page of training: curves of one or several runs, one over the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.training.metrics import read_metrics
from pipeline.files import storage
from pipeline.report.chart import Chart, Series, line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.lm.mixture.config import MixtureConfig

CHECKPOINTS = "checkpoints"
# In metrics.jsonl, before the name of a kind of sequences.
SHARE = "share_"
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
    """All runs that were trained, this one first. `noun` is what they are counted in: units, or tokens of a mixture."""

    runs: tuple[TrainedRun, ...]
    charts: tuple[Chart, ...]
    noun: str


@dataclass(frozen=True)
class KindSeen:
    """A kind of sequences of a mixture.

    Attributes:
        name: Its name.
        asked, seen: Its share of tokens as the recipe asks for, and as the training has seen them; None: not known.
        perplexity: At the last validation, of its own targets.
    """

    name: str
    asked: float | None
    seen: float | None
    perplexity: float | None


def read_training(names: Sequence[str], runs: Sequence[str]) -> TrainingFigures | None:
    """Reads the curves of some runs under their names; None where none was trained."""
    told = [(name, read_metrics(storage.join(run, CHECKPOINTS))) for name, run in zip(names, runs, strict=True)]
    told = [(name, lines) for name, lines in told if lines]
    if not told:
        return None
    is_mixed = any(key.startswith(SHARE) for _, lines in told for one in lines for key in one)
    noun, of = ("tokens", "kind") if is_mixed else ("units", "corpus")
    charts = [
        Chart(
            f"Validation perplexity by {of}", "lines", "step", "perplexity", tuple(_validations(told)), has_log_y=True
        )
    ]
    for key, title, unit in PER_STEP:
        unit = unit.replace("unit", noun.removesuffix("s"))
        series = []
        for name, lines in told:
            logged = [one for one in lines if key in one]
            if logged:
                series.append(line(name, [one["step"] for one in logged], [one[key] for one in logged]))
        charts.append(Chart(title, "lines", "step", unit, tuple(series)))
    return TrainingFigures(
        tuple(_summary(name, lines) for name, lines in told),
        tuple(chart for chart in charts if not chart.is_empty),
        noun,
    )


def read_kinds(run: str, mixture: MixtureConfig | None) -> tuple[KindSeen, ...]:
    """The kinds of a mixture: as a recipe asks for them, and as the run's training has seen them so far."""
    lines = read_metrics(storage.join(run, CHECKPOINTS))
    # What each line is about: the tokens since the line before.
    seen: dict[str, float] = {}
    before = 0
    for one in lines:
        for key in one:
            if key.startswith(SHARE):
                kind = key.removeprefix(SHARE)
                seen[kind] = seen.get(kind, 0.0) + one[key] * (one["tokens"] - before)
        before = one.get("tokens", before)
    last: dict[str, Any] = next((one["validation"]["corpora"] for one in reversed(lines) if "validation" in one), {})
    asked = dict.fromkeys(seen) if mixture is None else {kind: getattr(mixture, kind) for kind in mixture.kinds}
    total = sum(filter(None, asked.values()))
    return tuple(
        KindSeen(
            kind,
            weight / total if weight is not None else None,
            seen[kind] / before if kind in seen else None,
            last[kind]["perplexity"] if kind in last else None,
        )
        for kind, weight in asked.items()
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
