"""Tokenizes every segment to units on a Ray cluster (RAY_ADDRESS) or this machine; continues where it stopped."""

from __future__ import annotations

import sys

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import UNITS


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Turns a run's segments into units."""
    from pipeline.units.tokenize import tokenize

    run_stage(
        recipe,
        UNITS,
        lambda report: tokenize(recipe.run, recipe.encoder, recipe.cluster, report, retry_dropped=retry_dropped),
    )


main = command(
    "tokenize",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("encoder", "cluster"),
    add_retry_dropped,
)


if __name__ == "__main__":
    sys.exit(main())
