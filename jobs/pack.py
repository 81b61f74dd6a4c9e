"""Packs units into WebDataset shards, without duplicates and evaluation speech, split by speaker and shuffled."""

from __future__ import annotations

import sys

from jobs.command import command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import SHARDS


def work(recipe: Recipe) -> None:
    """Packs a run's units into shards."""
    from pipeline.packing.pack import pack

    run_stage(
        recipe,
        SHARDS,
        lambda report: pack(recipe.run, recipe.pack, report, recipe.encoder),
    )


main = command("pack", __doc__, lambda recipe, _: work(recipe), ("pack", "encoder"))


if __name__ == "__main__":
    sys.exit(main())
