"""Fits the k-means codebook on features drawn from the segments."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.runs import CODEBOOK
from pipeline.units.codebook_fit import fit_codebook


def work(recipe: Recipe) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(
        recipe.run,
        CODEBOOK,
        lambda report: fit_codebook(recipe.run, recipe.codebook, recipe.encoder, recipe.cluster, report),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard(
        "codebook", lambda: work(read_recipe("codebook", __doc__, ("codebook", "encoder", "cluster"), arguments)[0])
    )


if __name__ == "__main__":
    sys.exit(main())
