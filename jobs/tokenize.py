"""Tokenizes every segment to units on a Ray cluster (RAY_ADDRESS), or on this machine; goes on where it was."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from jobs.command import add_option, guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.runs import UNITS
from pipeline.units.tokenize import tokenize


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(
        recipe.run,
        UNITS,
        lambda report: tokenize(recipe.run, recipe.encoder, recipe.cluster, report, retry_dropped=retry_dropped),
    )


def _add_arguments(parser: ArgumentParser) -> None:
    add_option(
        parser,
        "retry-dropped",
        action="store_true",
        help="Take up again chunks that were quarantined, and those with segments whose audio was missing.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def do() -> None:
        recipe, given = read_recipe("tokenize", __doc__, ("encoder", "cluster"), arguments, _add_arguments)
        work(recipe, retry_dropped=given.retry_dropped)

    return guard("tokenize", do)


if __name__ == "__main__":
    sys.exit(main())
