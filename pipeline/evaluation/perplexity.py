"""Perplexity of a speech LM on shards, by corpus and their mean, with confidence intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.lm.confidence import MEAN, perplexity_intervals, speakers_of
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
    """Perplexity of a checkpoint and of a unigram model on one split, with confidence intervals.

    `result` tells the checkpoint's for tables, and has the nats of each sample. `held_to` says what the units of the
    `num_samples` samples were held to as they were read.
    """

    checkpoint: str
    shards: str
    split: str
    num_samples: int
    held_to: str
    model: PerplexityReport
    unigram: PerplexityReport
    intervals: dict[str, tuple[float, float]]
    result: Result

    def as_dict(self) -> dict[str, Any]:
        """All but `result`, as JSON has it."""
        told = ("checkpoint", "shards", "split", "num_samples", "held_to", "model", "unigram", "intervals")
        return {
            name: asdict(value) if isinstance(value, PerplexityReport) else value
            for name, value in ((name, getattr(self, name)) for name in told)
        }


def evaluate_perplexity(
    checkpoint_folder: str,
    shards: str,
    split: str,
    max_units: int,
    *,
    level: float = 0.95,
    seed: int = 0,
    device: Device = "auto",
    dtype: DType = "float32",
) -> Evaluation:
    """Perplexity of a checkpoint on one split, and of a unigram model of the training units on the same targets.

    Args:
        checkpoint_folder: A speech LM's folder, local or s3://, or a published name.
        shards: The shards' folder.
        split: One of the shards' splits.
        max_units: Most units of a sample; longer samples are cut.
        level: Level of the confidence intervals, by corpus and of the mean: bootstrap over speakers (over recordings
            if speakers are not known).
        seed: Seed of the bootstrap.
        device: Where the model runs.
        dtype: What it computes in.

    Raises:
        TwistError: the checkpoint or the shards are missing or damaged, or their units come from different codebooks.
    """
    dataset = open_dataset(shards)
    lm = load_lm(checkpoint_folder, device, dtype)
    vocabulary = lm.vocabulary.for_dataset(dataset)
    samples = UnitSamples(dataset, split, max_units)
    counts = unit_counts(UnitSamples(dataset, "train", max_units), vocabulary)
    nll = sample_nll(lm.model, vocabulary, samples)
    if not np.isfinite(nll).all():
        raise TwistError(
            f"{checkpoint_folder} gives samples of {shards} likelihoods that are not finite, though its weights are; "
            f"take another checkpoint"
        )
    speakers = speakers_of(samples)
    intervals = perplexity_intervals(nll, samples.num_units - 1, samples.corpora(), speakers, level=level, seed=seed)
    report, unigram = report_of(nll, samples), unigram_perplexity(counts, samples)
    settings = {"split": split, "max_units": max_units, "dtype": dtype, "interval_level": level, "seed": seed}
    items = _items(nll, samples, speakers)
    result = Result(
        benchmark="perplexity" if split == "validation" else f"perplexity-{split}",
        subject=checkpoint_folder,
        measures=(MEAN_OF_CORPORA, *(_measure_of(corpus) for corpus in report.corpora)),
        figures=_figures(report, intervals, items),
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
        checkpoint_folder, shards, split, len(samples), samples.held_to, report, unigram, intervals, result
    )


def _items(nll: NDArray[np.float64], samples: UnitSamples, speakers: list[str]) -> pa.Table:
    """A row a sample: its place in the manifest, its speaker, its corpus, its nats and units scored."""
    corpora = np.asarray(samples.corpora())
    items = pa.table(
        {
            "item_id": pa.array(samples.manifest_rows()).cast(pa.string()),
            GROUP: speakers,
            "corpus": corpora,
            "nats": nll,
            "num_targets": samples.num_units - 1,
        }
    )
    for corpus in np.unique(corpora):
        items = items.append_column(f"corpus {corpus}", pa.array(corpora == corpus))
    return items


def _measure_of(corpus: str) -> Measure:
    return Measure(corpus, "nats", "num_targets", where=f"corpus {corpus}", exponential=True)


def _figures(report: PerplexityReport, intervals: dict[str, tuple[float, float]], items: pa.Table) -> dict[str, Figure]:
    figures = {}
    for measure, name, score in (
        (MEAN_OF_CORPORA.name, MEAN, report.mean),
        *((corpus, corpus, score) for corpus, score in report.corpora.items()),
    ):
        counted = items if name == MEAN else items.filter(items[f"corpus {name}"])
        num_groups = len(pc.unique(counted[GROUP]))
        low, high = intervals[name] if num_groups > 1 else (None, None)
        figures[measure] = Figure(score.perplexity, low, high, len(counted), num_groups)
    return figures


def table(evaluation: Evaluation) -> str:
    """The evaluation as a table in plain text."""
    rows: list[tuple[str, ...]] = [("corpus", "perplexity", "confidence", "unigram", "units scored")]
    scores = {**evaluation.model.corpora, MEAN: evaluation.model.mean}
    unigrams = {**evaluation.unigram.corpora, MEAN: evaluation.unigram.mean}
    for name, score in scores.items():
        low, high = evaluation.intervals[name]
        interval = f"{low:.2f} to {high:.2f}" if low < high else "one speaker"
        unigram = f"{unigrams[name].perplexity:.2f}"
        rows.append((printable(name), f"{score.perplexity:.2f}", interval, unigram, f"{score.num_targets:,}"))
    return "\n".join([*in_columns(rows), f"units of {evaluation.num_samples:,} samples held to {evaluation.held_to}"])
