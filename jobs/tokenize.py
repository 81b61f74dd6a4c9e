"""Tokenizes every segment to units on a Ray cluster (RAY_ADDRESS), or on this machine; goes on where it was."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.tokenize import STAGE, tokenize


def work(recipe: Recipe) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(recipe.run, STAGE, lambda report: tokenize(recipe.run, recipe.encoder, recipe.cluster, report))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard("tokenize", lambda: work(read_recipe("tokenize", __doc__, ("encoder", "cluster"), arguments)[0]))


if __name__ == "__main__":
    sys.exit(main())
