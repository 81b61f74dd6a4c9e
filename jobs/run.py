"""Runs a recipe from audio to an evaluated model, stage by stage; what is finished is skipped.

With --until it ends earlier, and the settings of what would come after are not looked at.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentParser

from jobs import codebook, evaluate, filter, manifest, pack, segment, tokenize, train
from jobs.command import guard
from jobs.recipe import SECTIONS, Recipe, read_recipe
from model.lm.speech_lm import require_model
from pipeline import stage
from pipeline.files import storage
from pipeline.inspection.describe import describe_shards
from pipeline.inspection.text import table_of_corpora
from pipeline.runs import UNITS
from pipeline.units.encode import describe_encoder

STAGES: dict[str, Callable[[Recipe], None]] = {
    "manifest": manifest.work,
    "filter": filter.work,
    "segment": segment.work,
    "codebook": codebook.work,
    "tokenize": tokenize.work,
    "pack": pack.work,
}
# Of no use without an encoder that can be loaded, which is therefore seen to before them all.
WITH_ENCODER = ("codebook", "tokenize", "pack")
DATA_SECTIONS = tuple(name for name in SECTIONS if name not in ("train", "pretrain", "vocoder"))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        ends_early = any(argument.partition("=")[0] == "--until" for argument in arguments)
        sections = ("corpora", *DATA_SECTIONS, *(() if ends_early else ("train",)))
        recipe, given = read_recipe("run", __doc__, sections, arguments, _add_arguments)
        recipe = manifest.with_audio(recipe, given)
        # Said now, not after days of tokenization.
        if given.until in (None, *WITH_ENCODER) and not stage.is_finished(recipe.run, UNITS):
            describe_encoder(recipe.encoder)
        if given.until is not None:
            _run_until(recipe, given.until)
            if given.until == "pack":
                print(f"\n{table_of_corpora(describe_shards(storage.join(recipe.run, 'shards')))}")
            return
        checkpoints = given.checkpoints or storage.join(recipe.run, "checkpoints")
        assert recipe.train is not None
        require_model(recipe.train.init, recipe.train.architecture, recipe.train.max_units)
        _run_until(recipe, "pack")
        result = train.work(recipe, checkpoints=checkpoints)
        shards = storage.join(recipe.run, "shards")
        evaluation = evaluate.evaluate_perplexity(result.checkpoint, shards, "validation", recipe.train.max_units)
        print(f"\n{table_of_corpora(describe_shards(shards))}")
        print(f"\n{_table(recipe, result.initial.mean.perplexity, evaluation)}")

    return guard("run", work)


def _run_until(recipe: Recipe, last: str) -> None:
    for name, work in STAGES.items():
        work(recipe)
        if name == last:
            return


def _add_arguments(parser: ArgumentParser) -> None:
    manifest.add_audio(parser)
    train.add_checkpoints(parser)
    parser.add_argument(
        "--until", choices=tuple(STAGES), help="The last stage to do; training comes after, unless given."
    )


def _table(recipe: Recipe, perplexity_before: float, evaluation: evaluate.Evaluation) -> str:
    shards = storage.join(recipe.run, "shards")
    description = describe_shards(shards)
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
