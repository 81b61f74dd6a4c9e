"""Turns the pitch of every segment into codes, on a Ray cluster (RAY_ADDRESS) or this machine; goes on where it was."""

from __future__ import annotations

import sys

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import PITCH


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Turns the pitch of a run's segments into codes."""
    from pipeline.pitch.pitch import tokenize_pitch

    run_stage(
        recipe,
        PITCH,
        lambda report: tokenize_pitch(recipe.run, recipe.pitch, recipe.cluster, report, retry_dropped=retry_dropped),
    )


main = command(
    "pitch",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("pitch", "cluster"),
    add_retry_dropped,
)


if __name__ == "__main__":
    sys.exit(main())
