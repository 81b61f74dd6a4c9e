"""Runs a recipe from audio to an evaluated model, stage by stage, skipping what is finished.

With --until it ends after that stage and needs no training settings.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from jobs import manifest, train
from jobs.command import add_retry_dropped, command
from jobs.recipe import SECTIONS, Recipe, has_option
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import MANIFEST, SHARDS, STAGES, TEXT, UNITS, StageRow

if TYPE_CHECKING:
    from pipeline.evaluation.perplexity import Evaluation

# Without `words` and `text`, which only a recipe can ask for.
NOT_DATA = (
    "words",
    "text",
    "train",
    "pretrain",
    "spin",
    "vocoder",
    "train_style",
    "preferences",
    "tune",
    "evaluation",
    "train_pitch",
    "train_language",
)
DATA_SECTIONS = tuple(name for name in SECTIONS if name not in NOT_DATA)


def work(recipe: Recipe, given: Namespace) -> None:
    """Does what is left of a run.

    Raises:
        TwistError: something that a stage or training needs is missing; this is checked before the first stage.
    """
    from pipeline.inspection.describe_shards import describe_shards
    from pipeline.inspection.text import table_of_corpora

    recipe = manifest.with_audio(recipe, given)
    shards = storage.join(recipe.run, "shards")
    stages = stages_of(recipe, given.until)
    require_encoder(recipe, stages)
    if given.until is not None:
        run_stages(recipe, stages, retry_dropped=given.retry_dropped)
        if stages[-1].name == SHARDS:
            print(f"\n{table_of_corpora(describe_shards(shards))}")
        return
    from model.lm.speech_lm import require_model
    from pipeline.evaluation import results
    from pipeline.evaluation.kinds import perplexity_of_kinds
    from pipeline.evaluation.perplexity import evaluate_perplexity
    from pipeline.evaluation.subject import name_of

    assert recipe.train is not None
    if recipe.train.expressive and not (recipe.pitch.model and recipe.style.model):
        raise TwistError("train.expressive needs codes of pitch and style: name pitch.model and style.model")
    require_model(recipe.train.init, recipe.train.architecture, recipe.train.max_units, 2 * recipe.train.bos_eos)
    run_stages(recipe, stages, retry_dropped=given.retry_dropped)
    result = train.work(recipe, checkpoints=given.checkpoints)
    output = storage.join(recipe.run, results.EVALUATION)
    where = storage.join(output, name_of(result.checkpoint, output))
    print(f"\n{table_of_corpora(describe_shards(shards))}")
    if recipe.train.mixture is not None:
        text = storage.join(recipe.run, TEXT)
        of_kinds = perplexity_of_kinds(result.checkpoint, shards, text, recipe.train, "validation")
        results.write(where, of_kinds)
        print(f"\n{results.as_text(of_kinds)}\nbest checkpoint  {result.checkpoint}")
        return
    evaluation = evaluate_perplexity(result.checkpoint, shards, "validation", recipe.train.max_units)
    results.write(where, evaluation.result)
    print(f"\n{_table(recipe, result.initial.mean.perplexity, evaluation)}")


def stages_of(recipe: Recipe, until: str | None) -> list[StageRow]:
    """The stages to do, to the end or until one of them."""
    asked_for = [stage for stage in STAGES if stage.section is None or _is_said(recipe, stage.section)]
    if until is None:
        return asked_for
    commands = [stage.command for stage in asked_for]
    if until not in commands:
        section = next(stage.section for stage in STAGES if stage.command == until)
        told = f"`{section}`" if "." in str(section) else f"`{section}:`"
        raise TwistError(f"--until {until}: the recipe has no {told}, so that stage is left out; add it")
    return asked_for[: commands.index(until) + 1]


def _is_said(recipe: Recipe, setting: str) -> bool:
    """Whether a recipe has a section, or something in one: text.corpora."""
    value: Any = recipe
    for name in setting.split("."):
        value = getattr(value, name, None)
    return bool(value)


def require_encoder(recipe: Recipe, stages: Sequence[StageRow]) -> None:
    """Loads the encoder if one of these stages will need it, to find out now if it is missing."""
    from pipeline import stage
    from pipeline.units.encode import describe_encoder

    if stages[-1].needs_encoder and not stage.is_finished(recipe.run, UNITS):
        describe_encoder(recipe.encoder)


def run_stages(recipe: Recipe, stages: Sequence[StageRow], *, retry_dropped: bool) -> None:
    """Does these stages in order; finished ones are skipped."""
    for stage in stages:
        settings = {"retry_dropped": retry_dropped} if stage.reads_audio else {}
        importlib.import_module(f"jobs.{stage.command.replace('-', '_')}").work(recipe, **settings)


def _table(recipe: Recipe, perplexity_before: float, evaluation: Evaluation) -> str:
    from model.lm.ngram import best_order
    from pipeline import stage
    from pipeline.inspection.describe_shards import describe_shards

    order = best_order(evaluation.ngrams)
    shards = storage.join(recipe.run, "shards")
    description = describe_shards(shards)
    input_hours = stage.read_facts(recipe.run, MANIFEST)["counts"]["kept"]["hours"]
    rows = {
        "hours of audio": f"{input_hours:.2f} read, {description['hours']:.2f} in shards",
        "segments": f"{description['num_samples']:,}",
        "units": f"{description['num_units']:,} of {description['codebook_size']} kinds",
        "units per hour": f"{description['units_per_hour_before']:,.0f} before run-length de-duplication, "
        f"{description['units_per_hour']:,.0f} after",
        "validation perplexity": f"{perplexity_before:.2f} before training, {evaluation.model.mean.perplexity:.2f} "
        f"after, {evaluation.unigram.mean.perplexity:.2f} by unit frequencies alone, "
        f"{evaluation.ngrams[order].mean.perplexity:.2f} by the best n-gram (n = {order})",
        "shards": shards,
        "best checkpoint": evaluation.checkpoint,
        "look closer": f"twist inspect {shlex.quote(recipe.run)}",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows.items())


def _add_arguments(parser: ArgumentParser) -> None:
    manifest.add_audio(parser)
    train.add_checkpoints(parser)
    add_retry_dropped(parser)
    parser.add_argument(
        "--until",
        choices=tuple(stage.command for stage in STAGES),
        help="The last stage to do; training comes after, unless given.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    ends_early = has_option("--until", arguments)
    sections = DATA_SECTIONS if ends_early else (*DATA_SECTIONS, "train")
    return command("run", __doc__, work, sections, _add_arguments)(arguments)


if __name__ == "__main__":
    sys.exit(main())
