"""Packs units into WebDataset shards, without duplicates and evaluation speech, split by speaker and shuffled."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from jobs.command import add_option, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import SHARDS, WORDS


def work(recipe: Recipe, *, again: bool = False) -> None:
    """Packs a run's units into shards."""
    from pipeline.packing.pack import pack
    from pipeline.stage import fingerprint_of

    tokenizer = recipe.text.tokenizer if recipe.text is not None else None
    if tokenizer is not None and recipe.words is not None:
        fingerprint_of(recipe.run, WORDS)  # words that the recipe asks for are not left out without a word
    run_stage(
        recipe,
        SHARDS,
        lambda report: pack(recipe.run, recipe.pack, report, recipe.encoder, tokenizer, again=again),
    )


def _add_arguments(parser: ArgumentParser) -> None:
    add_option(
        parser,
        "again",
        action="store_true",
        help="Remove the shards that are there and pack anew; stop trainings that read them first.",
    )


main = command(
    "pack", __doc__, lambda recipe, given: work(recipe, again=given.again), ("pack", "encoder"), _add_arguments
)


if __name__ == "__main__":
    sys.exit(main())
