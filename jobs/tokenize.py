"""Tokenizes every segment to units on a Ray cluster (RAY_ADDRESS) or this machine; continues where it stopped."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from jobs.command import add_option, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import UNITS


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Turns a run's segments into units."""
    from pipeline.units.tokenize import tokenize

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


main = command(
    "tokenize",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("encoder", "cluster"),
    _add_arguments,
)


if __name__ == "__main__":
    sys.exit(main())
