"""Keeps each speech once, and the recordings that are in a wanted language (--language en,de is short for its option).

What says so is what their corpus tells, their text, and, with --language.audio.model, how they sound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard, run_stage
from jobs.recipe import Recipe, read_recipe
from pipeline.language.filter import filter_languages
from pipeline.runs import LANGUAGE
from pipeline.stage import read_facts

SECTIONS = ("same_speech", "language", "cluster")


def work(recipe: Recipe) -> None:
    """Does the stage of this recipe, or says that it is done."""
    run_stage(
        recipe.run,
        LANGUAGE,
        lambda report: filter_languages(recipe.run, recipe.language, report, recipe.same_speech, recipe.cluster),
    )
    audio = read_facts(recipe.run, LANGUAGE)["audio_evidence"]
    if not audio["available"] and audio["unheard"]["items"]:
        print(
            f"{'':<10} audio evidence was not available: {audio['unheard']['items']:,} recordings "
            f"({audio['unheard']['hours']:.2f} h) would have been listened to; language.audio.model names a classifier"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard("filter", lambda: work(read_recipe("filter", __doc__, SECTIONS, arguments)[0]))


if __name__ == "__main__":
    sys.exit(main())
