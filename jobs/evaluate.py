"""Measures a checkpoint on shards: perplexity per corpus and their mean."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from jobs.command import guard, quiet_transformers
from jobs.recipe import read_recipe
from model import checkpoint
from model.loader import UnitSamples
from model.perplexity import PerplexityReport, perplexity, unigram_perplexity, unit_counts
from model.speech_lm import load_speech_lm
from pipeline import storage
from pipeline.shards import open_dataset


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on what."""

    checkpoint: str
    shards: str
    split: str
    model: PerplexityReport
    unigram: PerplexityReport


def evaluate_perplexity(checkpoint_folder: str, shards: str, split: str, max_units: int) -> Evaluation:
    """Perplexity of one split under a checkpoint, beside a unigram model of the training units on the same targets.

    Raises:
        TwistError: the checkpoint or the shards are not there, or their units come from different codebooks.
    """
    quiet_transformers()
    dataset = open_dataset(shards)
    model, vocabulary = load_speech_lm(checkpoint_folder)
    samples = UnitSamples(dataset, split, max_units)
    counts = unit_counts(UnitSamples(dataset, "train", max_units), vocabulary)
    report = perplexity(model, vocabulary, samples)
    return Evaluation(checkpoint_folder, shards, split, report, unigram_perplexity(counts, samples))


def table(evaluation: Evaluation) -> str:
    """The evaluation for a person to read."""
    rows: list[tuple[str, ...]] = [("corpus", "perplexity", "unigram", "units scored")]
    for name, corpus in evaluation.model.corpora.items():
        unigram = evaluation.unigram.corpora[name]
        rows.append((name, f"{corpus.perplexity:.2f}", f"{unigram.perplexity:.2f}", f"{corpus.num_targets:,}"))
    mean, unigram = evaluation.model.mean, evaluation.unigram.mean
    rows.append(("mean", f"{mean.perplexity:.2f}", f"{unigram.perplexity:.2f}", f"{mean.num_targets:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _needs_run(given: Namespace) -> bool:
    return not (given.shards and given.checkpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def do() -> None:
        recipe, given = read_recipe("evaluate", __doc__, (), arguments, _add_arguments, _needs_run)
        checkpoints = storage.join(recipe.run, "checkpoints")
        evaluation = evaluate_perplexity(
            given.checkpoint or str(checkpoint.best_folder(checkpoints)),
            given.shards or storage.join(recipe.run, "shards"),
            given.split,
            given.max_units,
        )
        print(json.dumps(_as_json(evaluation)) if given.json else table(evaluation))

    return guard("evaluate", do)


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    return asdict(evaluation)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("metric", type=Literal["perplexity"], help="What to measure.")
    parser.add_argument(
        "--checkpoint", type=str | None, help="Checkpoint folder; the best of RUN/checkpoints unless given."
    )
    parser.add_argument(
        "--shards", type=str | None, help="Folder of the shards, local or s3://; RUN/shards unless given."
    )
    parser.add_argument(
        "--split", type=Literal["train", "validation", "test"], default="validation", help="The split to measure on."
    )
    parser.add_argument(
        "--max_units", type=int, default=704, help="Units that a sample has at most; longer ones are cut."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


if __name__ == "__main__":
    sys.exit(main())
