"""Perplexity of a speech LM on shards, by corpus and their mean, with confidence intervals, beside n-gram models'."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.lm.confidence import MEAN, perplexity_intervals, speakers_of
from model.lm.ngram import MOST_UNITS, fit_ngrams, ngram_nll, reports_by_order
from model.lm.perplexity import PerplexityReport, report_of, sample_nll, unigram_perplexity, unit_counts
from model.lm.samples import UnitSamples
from model.training import checkpoint
from model.weights_file import fingerprint_of_folder
from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP, Figure, Measure
from pipeline.evaluation.results import Result
from pipeline.printable import printable
from pipeline.shards import open_dataset
from pipeline.speaking.speech_lm import load_lm
from pipeline.text_table import in_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.device import Device
    from pipeline.speaking.voice import DType

MEAN_OF_CORPORA = Measure("mean of corpora", "nats", "num_targets", mean_over="corpus", exponential=True)


@dataclass(frozen=True)
class Evaluation:
    """Perplexity of a checkpoint and of n-gram models on one split, with confidence intervals.

    `result` tells the checkpoint's for tables, and has the nats of each sample. `held_to` says what the units of the
    `num_samples` samples were held to as they were read. `ngrams` are by order, from 1; `unigram` counts all training
    units, with one added to each. `knows_text`: whether the checkpoint is a model of text, too.
    """

    checkpoint: str
    shards: str
    split: str
    num_samples: int
    held_to: str
    model: PerplexityReport
    unigram: PerplexityReport
    ngrams: dict[int, PerplexityReport]
    intervals: dict[str, tuple[float, float]]
    result: Result
    knows_text: bool = False

    def as_dict(self) -> dict[str, Any]:
        """All but `result`, as JSON has it."""
        told = ("checkpoint", "shards", "split", "num_samples", "held_to", "model", "unigram", "intervals")
        content = {
            name: asdict(value) if isinstance(value, PerplexityReport) else value
            for name, value in ((name, getattr(self, name)) for name in told)
        }
        return {**content, "ngrams": {str(order): asdict(report) for order, report in self.ngrams.items()}}


def evaluate_perplexity(
    checkpoint_folder: str,
    shards: str,
    split: str,
    max_units: int,
    *,
    ngram_units: int = MOST_UNITS,
    level: float = 0.95,
    seed: int = 0,
    device: Device = "auto",
    dtype: DType = "float32",
) -> Evaluation:
    """Perplexity of a checkpoint on one split, and of n-gram models of the training units on the same targets.

    Args:
        checkpoint_folder: A speech LM's folder, local or s3://, or a published name.
        shards: The shards' folder.
        split: One of the shards' splits.
        max_units: Most units of a sample; longer samples are cut.
        ngram_units: Most training units that n-gram models count; of more, stretches are drawn by `seed`.
        level: Level of the confidence intervals, by corpus and of the mean: bootstrap over speakers (over recordings
            if speakers are not known).
        seed: Seed of the bootstrap and of what n-gram models count.
        device: Where the model runs.
        dtype: What it computes in.

    Raises:
        TwistError: the checkpoint or the shards are missing or damaged, or their units come from different codebooks.
    """
    dataset = open_dataset(shards)
    lm = load_lm(checkpoint_folder, device, dtype)
    if lm.vocabulary.is_expressive:
        raise TwistError(
            f"{checkpoint_folder} is a model of units, pitch and style, which has no perplexity over units alone; with "
            f"its training's recipe (train.expressive), that of each kind of sequence is measured"
        )
    vocabulary = lm.vocabulary.for_dataset(dataset)
    samples = UnitSamples(dataset, split, max_units)
    train = UnitSamples(dataset, "train", max_units)
    counts = unit_counts(train, vocabulary)
    nll = sample_nll(lm.model, vocabulary, samples)
    if not np.isfinite(nll).all():
        raise TwistError(
            f"{checkpoint_folder} gives samples of {shards} likelihoods that are not finite, though its weights are; "
            f"take another checkpoint"
        )
    of_orders = ngram_nll(fit_ngrams(train, vocabulary.codebook_size, most_units=ngram_units, seed=seed), samples)
    speakers = speakers_of(samples)

    def intervals_of(nats: NDArray[np.float64]) -> dict[str, tuple[float, float]]:
        targets = samples.num_units - 1
        return perplexity_intervals(nats, targets, samples.corpora(), speakers, level=level, seed=seed)

    intervals = intervals_of(nll)
    report, unigram = report_of(nll, samples), unigram_perplexity(counts, samples)
    ngrams = reports_by_order(of_orders, samples)
    settings = {
        "split": split,
        "max_units": max_units,
        "ngram_units": ngram_units,
        "dtype": dtype,
        "interval_level": level,
        "seed": seed,
    }
    items = _items(nll, of_orders, samples, speakers)
    figures = _figures(report, intervals, items)
    for order, nats in enumerate(of_orders, start=1):
        low_and_high = intervals_of(nats)[MEAN]
        figures[_measure_of_order(order).name] = _figure(ngrams[order].mean.perplexity, low_and_high, items)
    result = Result(
        benchmark="perplexity" if split == "validation" else f"perplexity-{split}",
        subject=checkpoint_folder,
        measures=(
            MEAN_OF_CORPORA,
            *(_measure_of(corpus) for corpus in report.corpora),
            *map(_measure_of_order, ngrams),
        ),
        figures=figures,
        items=items,
        rule="TWIST: exp of the mean nats per unit of each corpus, mean of the corpora; first units are not scored",
        settings=settings,
        fingerprints={
            "data": dataset.fingerprint,
            "codebook": dataset.info["codebook"]["fingerprint"],
            "model": fingerprint_of_folder(checkpoint.fetch(lm.path)),
        },
    )
    return Evaluation(
        checkpoint_folder,
        shards,
        split,
        len(samples),
        samples.held_to,
        report,
        unigram,
        ngrams,
        intervals,
        result,
        knows_text=bool(vocabulary.text_size),
    )


def _items(
    nll: NDArray[np.float64], of_orders: NDArray[np.float64], samples: UnitSamples, speakers: list[str]
) -> pa.Table:
    """A row a sample: place in the manifest, speaker, corpus, nats by the model and by n-grams, and units scored."""
    corpora = np.asarray(samples.corpora())
    items = pa.table(
        {
            "item_id": pa.array(samples.manifest_rows()).cast(pa.string()),
            GROUP: speakers,
            "corpus": corpora,
            "nats": nll,
            "num_targets": samples.num_units - 1,
            **{f"nats_{order}gram": nats for order, nats in enumerate(of_orders, start=1)},
        }
    )
    for corpus in np.unique(corpora):
        items = items.append_column(f"corpus {corpus}", pa.array(corpora == corpus))
    return items


def _measure_of(corpus: str) -> Measure:
    return Measure(corpus, "nats", "num_targets", where=f"corpus {corpus}", exponential=True)


def _measure_of_order(order: int) -> Measure:
    return Measure(f"{order}-gram", f"nats_{order}gram", "num_targets", mean_over="corpus", exponential=True)


def _figures(report: PerplexityReport, intervals: dict[str, tuple[float, float]], items: pa.Table) -> dict[str, Figure]:
    figures = {}
    for measure, name, score in (
        (MEAN_OF_CORPORA.name, MEAN, report.mean),
        *((corpus, corpus, score) for corpus, score in report.corpora.items()),
    ):
        counted = items if name == MEAN else items.filter(items[f"corpus {name}"])
        figures[measure] = _figure(score.perplexity, intervals[name], counted)
    return figures


def _figure(perplexity: float, interval: tuple[float, float], counted: pa.Table) -> Figure:
    num_groups = len(pc.unique(counted[GROUP]))
    low, high = interval if num_groups > 1 else (None, None)
    return Figure(perplexity, low, high, len(counted), num_groups)


def table(evaluation: Evaluation) -> str:
    """The evaluation as a table in plain text."""
    orders = [order for order in evaluation.ngrams if order > 1]
    rows: list[tuple[str, ...]] = [
        ("corpus", "perplexity", "confidence", "unigram", *(f"{order}-gram" for order in orders), "units scored")
    ]
    scores = {**evaluation.model.corpora, MEAN: evaluation.model.mean}
    baselines = [
        {**report.corpora, MEAN: report.mean}
        for report in (evaluation.unigram, *(evaluation.ngrams[order] for order in orders))
    ]
    for name, score in scores.items():
        low, high = evaluation.intervals[name]
        interval = f"{low:.2f} to {high:.2f}" if low < high else "one speaker"
        counted = (f"{baseline[name].perplexity:.2f}" for baseline in baselines)
        rows.append((printable(name), f"{score.perplexity:.2f}", interval, *counted, f"{score.num_targets:,}"))
    return "\n".join([*in_columns(rows), f"units of {evaluation.num_samples:,} samples held to {evaluation.held_to}"])
