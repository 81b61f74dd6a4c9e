"""Measures a checkpoint on shards: perplexity per corpus and their mean, with confidence intervals."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from jobs.command import add_option, command, quiet_transformers
from jobs.recipe import Recipe
from pipeline.files import storage


def work(recipe: Recipe, given: Namespace) -> None:
    """Prints the perplexity of a checkpoint, as a table or as JSON."""
    from model.training import checkpoint
    from pipeline.evaluation.perplexity import evaluate_perplexity, table

    quiet_transformers()
    evaluation = evaluate_perplexity(
        given.checkpoint or checkpoint.best_folder(storage.join(recipe.run, "checkpoints")),
        given.shards or storage.join(recipe.run, "shards"),
        given.split,
        given.max_units,
        level=given.level,
        seed=given.seed,
    )
    print(json.dumps(asdict(evaluation)) if given.json else table(evaluation))


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("metric", type=Literal["perplexity"], help="What to measure.")
    parser.add_argument(
        "--checkpoint",
        type=str | None,
        help="Checkpoint folder, local or s3://; the best of RUN/checkpoints unless given.",
    )
    parser.add_argument(
        "--shards", type=str | None, help="Folder of the shards, local or s3://; RUN/shards unless given."
    )
    parser.add_argument(
        "--split", type=Literal["train", "validation", "test"], default="validation", help="The split to measure on."
    )
    add_option(parser, "max-units", type=int, default=704, help="Units that a sample has at most; longer ones are cut.")
    parser.add_argument("--level", type=float, default=0.95, help="Share of draws that confidence intervals hold.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the speakers drawn for confidence intervals.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


main = command(
    "evaluate",
    __doc__,
    work,
    add_arguments=_add_arguments,
    needs_run=lambda given: not (given.shards and given.checkpoint),
)


if __name__ == "__main__":
    sys.exit(main())
