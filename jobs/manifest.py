"""Lists the recordings of the corpora and reads their headers: `twist manifest librispeech data/LibriSpeech --run RUN`.

The corpora are the recipe's, or the one named on the command line.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import get_args

from jsonargparse import ArgumentParser, Namespace

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from jobs.recipe_text import UsageError
from pipeline.corpora.source import CorpusConfig, Kind
from pipeline.runs import MANIFEST


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Lists the recordings of a run's corpora."""
    from pipeline.corpora.manifest import make_manifest

    run_stage(
        recipe,
        MANIFEST,
        lambda report: make_manifest(recipe.run, recipe.corpora, report, retry_dropped=retry_dropped),
    )


def add_audio(parser: ArgumentParser) -> None:
    """Adds --audio, which replaces the recipe's corpora."""
    parser.add_argument(
        "--audio",
        type=str | None,
        help="A folder of audio, or a corpus of a known layout, in place of the recipe's.",
    )


def with_audio(recipe: Recipe, arguments: Namespace) -> Recipe:
    """The recipe with the corpus of --audio, if given, in place of its corpora."""
    if arguments.audio is None:
        return recipe
    return replace(recipe, corpora=(CorpusConfig(kind="auto", root=arguments.audio),))


def _add_corpus(parser: ArgumentParser) -> None:
    parser.add_argument("corpus", nargs="?", choices=get_args(Kind), help="How ROOT is laid out: docs/corpora.md.")
    parser.add_argument("root", nargs="?", type=str | None, help="The corpus' folder, local or s3://bucket/prefix.")
    parser.add_argument("--name", type=str | None, help="What the corpus is called, the folder's name unless given.")
    add_audio(parser)
    add_retry_dropped(parser)


def _with_corpus(recipe: Recipe, arguments: Namespace) -> Recipe:
    if arguments.corpus is None:
        if arguments.name is not None:
            raise UsageError("--name goes with a corpus and its ROOT")
        return with_audio(recipe, arguments)
    if arguments.root is None:
        raise UsageError(f"name the folder of the corpus too: twist manifest {arguments.corpus} ROOT")
    if arguments.audio is not None:
        raise UsageError("--audio and a corpus with its ROOT name the corpus twice; give one of them")
    return replace(recipe, corpora=(CorpusConfig(arguments.root, arguments.corpus, arguments.name),))


main = command(
    "manifest",
    __doc__,
    lambda recipe, given: work(_with_corpus(recipe, given), retry_dropped=given.retry_dropped),
    ("corpora",),
    _add_corpus,
)


if __name__ == "__main__":
    sys.exit(main())
