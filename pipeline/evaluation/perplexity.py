"""Perplexity of a speech LM on shards, by corpus and their mean, with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass

from model.lm.confidence import MEAN, perplexity_intervals, speakers_of
from model.lm.loader import UnitSamples
from model.lm.perplexity import PerplexityReport, report_of, sample_nll, unigram_perplexity, unit_counts
from model.lm.speech_lm import load_speech_lm
from model.training import checkpoint
from pipeline.shards import open_dataset


@dataclass(frozen=True)
class Evaluation:
    """Perplexity of a checkpoint and of a unigram model on one split, with confidence intervals."""

    checkpoint: str
    shards: str
    split: str
    model: PerplexityReport
    unigram: PerplexityReport
    intervals: dict[str, tuple[float, float]]


def evaluate_perplexity(
    checkpoint_folder: str, shards: str, split: str, max_units: int, *, level: float = 0.95, seed: int = 0
) -> Evaluation:
    """Perplexity of a checkpoint on one split, and of a unigram model of the training units on the same targets.

    Args:
        checkpoint_folder: A speech LM's folder, local or s3://.
        shards: The shards' folder.
        split: One of the shards' splits.
        max_units: Most units of a sample; longer samples are cut.
        level: Level of the confidence intervals, by corpus and of the mean: bootstrap over speakers (over recordings
            if speakers are not known).
        seed: Seed of the bootstrap.

    Raises:
        TwistError: the checkpoint or the shards are missing, or their units come from different codebooks.
    """
    dataset = open_dataset(shards)
    model, vocabulary = load_speech_lm(str(checkpoint.fetch(checkpoint_folder)))
    vocabulary = vocabulary.for_dataset(dataset)
    samples = UnitSamples(dataset, split, max_units)
    counts = unit_counts(UnitSamples(dataset, "train", max_units), vocabulary)
    nll = sample_nll(model, vocabulary, samples)
    intervals = perplexity_intervals(
        nll, samples.num_units - 1, samples.corpora(), speakers_of(samples), level=level, seed=seed
    )
    unigram = unigram_perplexity(counts, samples)
    return Evaluation(checkpoint_folder, shards, split, report_of(nll, samples), unigram, intervals)


def table(evaluation: Evaluation) -> str:
    """The evaluation as a table in plain text."""
    rows: list[tuple[str, ...]] = [("corpus", "perplexity", "confidence", "unigram", "units scored")]
    scores = {**evaluation.model.corpora, MEAN: evaluation.model.mean}
    unigrams = {**evaluation.unigram.corpora, MEAN: evaluation.unigram.mean}
    for name, score in scores.items():
        low, high = evaluation.intervals[name]
        interval = f"{low:.2f} to {high:.2f}" if low < high else "one speaker"
        unigram = f"{unigrams[name].perplexity:.2f}"
        rows.append((name, f"{score.perplexity:.2f}", interval, unigram, f"{score.num_targets:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
