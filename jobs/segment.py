"""Cuts recordings into segments of speech and plans the chunks of tokenization."""

from __future__ import annotations

import sys

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import SEGMENTS


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Cuts the recordings that a run keeps into segments."""
    from pipeline.segments.segment import make_segments

    run_stage(
        recipe,
        SEGMENTS,
        lambda report: make_segments(recipe.run, recipe.segments, recipe.cluster, report, retry_dropped=retry_dropped),
    )


main = command(
    "segment",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("segments", "cluster"),
    add_retry_dropped,
)


if __name__ == "__main__":
    sys.exit(main())
