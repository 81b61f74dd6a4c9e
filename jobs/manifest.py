"""Lists the recordings of the corpora and reads their headers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from jsonargparse import ArgumentParser, Namespace

from jobs.command import guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.corpora.source import CorpusConfig
from pipeline.manifest import STAGE, make_manifest


def work(recipe: Recipe) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(recipe.run, STAGE, lambda report: make_manifest(recipe.run, recipe.corpora, report))


def add_audio(parser: ArgumentParser) -> None:
    """Adds the option that takes the place of a recipe's corpora."""
    parser.add_argument(
        "--audio", type=str | None, help="A folder of audio, or a LibriSpeech tree, in place of the recipe's corpora."
    )


def with_audio(recipe: Recipe, arguments: Namespace) -> Recipe:
    """The recipe with the corpora that the command line asks for."""
    if arguments.audio is None:
        return recipe
    return replace(recipe, corpora=(CorpusConfig(kind="auto", root=arguments.audio),))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard(
        "manifest", lambda: work(with_audio(*read_recipe("manifest", __doc__, ("corpora",), arguments, add_audio)))
    )


if __name__ == "__main__":
    sys.exit(main())
