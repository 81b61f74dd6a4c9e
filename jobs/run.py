"""Runs a recipe from audio to an evaluated model, stage by stage; what is finished is skipped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from jobs import codebook, filter, manifest, pack, segment, tokenize
from jobs.command import guard
from jobs.recipe import SECTIONS, read_recipe

DATA_STAGES = {
    "manifest": manifest.work,
    "filter": filter.work,
    "segment": segment.work,
    "codebook": codebook.work,
    "tokenize": tokenize.work,
    "pack": pack.work,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        recipe, given = read_recipe("run", __doc__, ("corpora", *SECTIONS), arguments, _add_arguments)
        recipe = manifest.with_audio(recipe, given)
        for stage_work in DATA_STAGES.values():
            stage_work(recipe)

    return guard("run", work)


def _add_arguments(parser: ArgumentParser) -> None:
    manifest.add_audio(parser)


if __name__ == "__main__":
    sys.exit(main())
