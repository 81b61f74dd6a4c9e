"""Gives each second of every segment a code of style, on a Ray cluster (RAY_ADDRESS) or this machine; resumes."""

from __future__ import annotations

import sys

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import STYLE


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Gives a run's segments codes of style."""
    from pipeline.style.stage import take_style

    run_stage(
        recipe,
        STYLE,
        lambda report: take_style(recipe.run, recipe.style, recipe.cluster, report, retry_dropped=retry_dropped),
    )


main = command(
    "style",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("style", "cluster"),
    add_retry_dropped,
)


if __name__ == "__main__":
    sys.exit(main())
