"""Keeps the recordings in the wanted languages, and of speech that several corpora hold, one recording.

A recording's language is decided by what its corpus states, by its text and, with --language.audio.model, by its sound.
--language en,de is short for --language.languages.
"""

from __future__ import annotations

import sys

from jobs.command import add_retry_dropped, command, run_stage
from jobs.recipe import Recipe
from pipeline.runs import LANGUAGE


def work(recipe: Recipe, *, retry_dropped: bool = False) -> None:
    """Decides which recordings a run keeps."""
    from pipeline.language.filter import filter_languages
    from pipeline.stage import read_facts

    run_stage(
        recipe,
        LANGUAGE,
        lambda report: filter_languages(
            recipe.run, recipe.language, recipe.cluster, report, recipe.same_speech, retry_dropped=retry_dropped
        ),
    )
    audio = read_facts(recipe.run, LANGUAGE)["audio_evidence"]
    if audio.get("trained_on"):
        print(
            f"{'':<10} WEAK EVIDENCE: {recipe.language.audio.model} was trained on no more than {audio['trained_on']}; "
            f"for real work name ECAPA for VoxLingua107 or Whisper as language.audio.model"
        )
    if not audio["available"] and audio["unheard"]["items"]:
        print(
            f"{'':<10} audio evidence was not available: {audio['unheard']['items']:,} recordings "
            f"({audio['unheard']['hours']:.2f} h) would have been listened to; language.audio.model names a classifier"
        )


main = command(
    "filter",
    __doc__,
    lambda recipe, given: work(recipe, retry_dropped=given.retry_dropped),
    ("same_speech", "language", "cluster"),
    add_retry_dropped,
)


if __name__ == "__main__":
    sys.exit(main())
