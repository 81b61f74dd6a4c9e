"""Runs a recipe from audio to an evaluated model, stage by stage; what is finished is skipped."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from jobs import codebook, evaluate, filter, manifest, pack, segment, tokenize, train
from jobs.command import guard
from jobs.recipe import SECTIONS, Recipe, UsageError, read_recipe
from model.speech_lm import require_model
from pipeline import report, stage, storage
from pipeline.tokenize import STAGE as UNITS
from pipeline.units import describe_encoder

STAGES = (manifest, filter, segment, codebook, tokenize, pack)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        recipe, given = read_recipe("run", __doc__, ("corpora", *SECTIONS), arguments, _add_arguments)
        recipe = manifest.with_audio(recipe, given)
        checkpoints = given.checkpoints or storage.join(recipe.run, "checkpoints")
        if storage.is_s3(checkpoints):
            raise UsageError("checkpoints cannot be written to S3; give --checkpoints a local folder")
        assert recipe.train is not None
        # Said now, not after days of tokenization.
        if not stage.is_finished(recipe.run, UNITS):
            describe_encoder(recipe.encoder)
        require_model(recipe.train.init, recipe.train.architecture, recipe.train.max_units)
        for job in STAGES:
            job.work(recipe)
        result = train.work(recipe, checkpoints=checkpoints)
        shards = storage.join(recipe.run, "shards")
        evaluation = evaluate.evaluate_perplexity(result.checkpoint, shards, "validation", recipe.train.max_units)
        print(f"\n{_table(recipe, result.initial.mean.perplexity, evaluation)}")

    return guard("run", work)


def _add_arguments(parser: ArgumentParser) -> None:
    manifest.add_audio(parser)
    train.add_checkpoints(parser)


def _table(recipe: Recipe, perplexity_before: float, evaluation: evaluate.Evaluation) -> str:
    shards = storage.join(recipe.run, "shards")
    description = report.describe_shards(shards)
    input_hours = stage.read_facts(recipe.run, "manifest")["counts"]["kept"]["hours"]
    rows = {
        "hours of audio": f"{input_hours:.2f} read, {description['hours']:.2f} in shards",
        "segments": f"{description['num_samples']:,}",
        "units": f"{description['num_units']:,} of {description['codebook_size']} kinds",
        "units per hour": f"{description['units_per_hour_before']:,.0f} before run-length de-duplication, "
        f"{description['units_per_hour']:,.0f} after",
        "validation perplexity": f"{perplexity_before:.2f} before training, {evaluation.model.mean.perplexity:.2f} "
        f"after, {evaluation.unigram.mean.perplexity:.2f} by unit frequencies alone",
        "shards": shards,
        "best checkpoint": evaluation.checkpoint,
        "look closer": f"twist inspect {shlex.quote(recipe.run)}",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
