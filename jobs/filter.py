"""Keeps the recordings that are in a wanted language, by what their corpus or their text says."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.language import STAGE, filter_languages


def work(recipe: Recipe) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(recipe.run, STAGE, lambda report: filter_languages(recipe.run, recipe.language, report))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard("filter", lambda: work(read_recipe("filter", __doc__, ("language",), arguments)[0]))


if __name__ == "__main__":
    sys.exit(main())
