"""Packs text into WebDataset shards of a text LM's tokens, to train on beside speech."""

from __future__ import annotations

import sys

from jobs.command import command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import TEXT


def work(recipe: Recipe) -> None:
    """Packs a recipe's text."""
    from pipeline.text.pack_text import pack_text

    text = recipe.text
    assert text is not None
    run_stage(recipe, TEXT, lambda report: pack_text(recipe.run, text, report))


main = command("pack-text", __doc__, lambda recipe, _: work(recipe), ("text",))


if __name__ == "__main__":
    sys.exit(main())
