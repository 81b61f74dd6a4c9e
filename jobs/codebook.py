"""Fits the k-means codebook on features drawn from the segments."""

from __future__ import annotations

import sys

from jobs.command import command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import CODEBOOK


def work(recipe: Recipe) -> None:
    """Fits a run's codebook, or imports the one that the recipe names."""
    from pipeline.units.codebook_fit import fit_codebook

    run_stage(
        recipe.run,
        CODEBOOK,
        lambda report: fit_codebook(recipe.run, recipe.codebook, recipe.encoder, recipe.cluster, report),
    )


main = command("codebook", __doc__, lambda recipe, _: work(recipe), ("codebook", "encoder", "cluster"))


if __name__ == "__main__":
    sys.exit(main())
