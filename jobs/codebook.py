"""Fits the k-means codebook on features drawn from the segments."""

from __future__ import annotations

import sys

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import CODEBOOK


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Fits a run's codebook, or imports the one that the recipe names."""
    from pipeline.units.codebook_fit import fit_codebook

    run_stage(
        recipe,
        CODEBOOK,
        lambda report: fit_codebook(
            recipe.run, recipe.codebook, recipe.encoder, recipe.cluster, report, retry_dropped=retry_dropped
        ),
    )


main = command(
    "codebook",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("codebook", "encoder", "cluster"),
    add_retry_dropped,
)


if __name__ == "__main__":
    sys.exit(main())
