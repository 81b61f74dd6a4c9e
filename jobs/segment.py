"""Cuts recordings into segments of speech and plans the chunks of tokenization."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.runs import SEGMENTS
from pipeline.segments.segment import make_segments


def work(recipe: Recipe) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(recipe.run, SEGMENTS, lambda report: make_segments(recipe.run, recipe.segments, recipe.cluster, report))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard("segment", lambda: work(read_recipe("segment", __doc__, ("segments", "cluster"), arguments)[0]))


if __name__ == "__main__":
    sys.exit(main())
