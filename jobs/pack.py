"""Packs units into WebDataset shards: duplicates and evaluation speech out, split by speaker, shuffled."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.packing.pack import pack
from pipeline.runs import SHARDS


def work(recipe: Recipe) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(recipe.run, SHARDS, lambda report: pack(recipe.run, recipe.pack, report, recipe.encoder))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard("pack", lambda: work(read_recipe("pack", __doc__, ("pack", "encoder"), arguments)[0]))


if __name__ == "__main__":
    sys.exit(main())
