"""Finds the words of segments and when they are said: in alignments that corpora bring, or by forced alignment."""

from __future__ import annotations

import sys

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import WORDS


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Aligns the texts of a run's segments."""
    from pipeline.words.align import align_words

    words = recipe.words
    assert words is not None
    run_stage(
        recipe,
        WORDS,
        lambda report: align_words(recipe.run, words, recipe.cluster, report, retry_dropped=retry_dropped),
    )


main = command(
    "align",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("words", "cluster"),
    add_retry_dropped,
)


if __name__ == "__main__":
    sys.exit(main())
