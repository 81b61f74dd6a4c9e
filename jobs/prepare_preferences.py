"""Makes pairs of a prompt with a good and a bad ending, to tune a speech LM on.

From recordings or texts that --preferences.source names, or from the model itself, if --preferences.continuations names
an ASR and a text LM. Units are those of the run's codebook. Pairs go to RUN/preferences.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from jobs import speech_options
from jobs.command import command, quiet_transformers, run_stage
from jobs.recipe import Recipe
from pipeline.files import storage
from pipeline.runs import PREFERENCES

if TYPE_CHECKING:
    from pipeline.progress import ReportProgress


def work(recipe: Recipe, given: Namespace) -> None:
    """Makes the pairs, and prints how many were kept and dropped, and why.

    Raises:
        TwistError: the source cannot be read, or no pair is left.
    """
    from model.training import checkpoint_steps
    from pipeline import stage
    from pipeline.evaluation.subject import Subject
    from pipeline.preferences.prepare import prepare_preferences

    quiet_transformers()
    run = recipe.run
    model = given.checkpoint
    if model is None and recipe.preferences.are_own:
        model = checkpoint_steps.best_folder(storage.join(run, "checkpoints"))

    def prepare(report: ReportProgress) -> None:
        subject = Subject(
            checkpoint=model,
            codebook_source=given.codebook or run,
            run=run,
            output=storage.join(run, PREFERENCES),
            config=recipe.evaluation,
            cluster=recipe.cluster,
            device=given.device,
            dtype=given.dtype,
            report=report,
        )
        prepare_preferences(run, recipe.preferences, subject)

    run_stage(recipe, PREFERENCES, prepare)
    facts = stage.read_facts(run, PREFERENCES)
    print(f"           {facts['pairs']['train']:,} pairs to train on, {facts['pairs']['validation']:,} to validate on")
    if facts["num_without_text"] and recipe.preferences.max_auto_bleu is not None:
        print(f"           {facts['num_without_text']:,} have no texts, so that their auto-BLEU is not known")
    if facts.get("num_cut"):
        print(f"           {facts['num_cut']:,} have a transcript of which the text LM takes the beginning alone")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=str | None,
        help="The speech LM for pairs from the model itself; the best of RUN/checkpoints unless given.",
    )
    speech_options.add_codebook(parser)
    speech_options.add_device(parser)


main = command("prepare-preferences", __doc__, work, ("preferences", "cluster"), _add_arguments)


if __name__ == "__main__":
    sys.exit(main())
