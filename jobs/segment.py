"""Cuts recordings into segments of speech and plans the chunks of tokenization."""

from __future__ import annotations

import sys

from jobs.command import command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import SEGMENTS


def work(recipe: Recipe) -> None:
    """Cuts the recordings that a run keeps into segments."""
    from pipeline.segments.segment import make_segments

    run_stage(
        recipe.run,
        SEGMENTS,
        lambda report: make_segments(recipe.run, recipe.segments, recipe.cluster, report),
    )


main = command("segment", __doc__, lambda recipe, _: work(recipe), ("segments", "cluster"))


if __name__ == "__main__":
    sys.exit(main())
