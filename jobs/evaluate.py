"""Measures a speech LM, its units and voice: perplexity on shards, and the benchmarks whose data is given.

`twist evaluate swuggy sblimp --run RUN` measures by name, `twist evaluate all` on whatever data the recipe names.
Results are kept in RUN/evaluation. `twist evaluate table RUN...` sets them side by side, `twist evaluate plot RUN...`
draws training curves, `twist evaluate mmos` has people rate what models say, `twist evaluate stsp-score` scores
predictions on STSP that another program made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from jobs import evaluate_mmos, evaluate_plot, evaluate_stsp_score, evaluate_table, speech_options
from jobs.command import add_option, command, quiet_transformers
from jobs.progress import progress
from jobs.recipe import Recipe
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.speaking.names import EMBEDDED_CODEBOOK

if TYPE_CHECKING:
    from pipeline.evaluation.config import EvaluationConfig
    from pipeline.evaluation.subject import Subject
    from pipeline.progress import ReportProgress

PERPLEXITY, UNITS, ALL = "perplexity", "units", "all"
# Commands of their own, which the first argument chooses.
OTHERS = {
    "table": evaluate_table.main,
    "plot": evaluate_plot.main,
    "mmos": evaluate_mmos.main,
    "stsp-score": evaluate_stsp_score.main,
}
Name = Literal[
    "perplexity", "swuggy", "sblimp", "storycloze", "salmon", "pairs", "matching", "choices", "asr", "tts",
    "intent", "units", "resynthesis", "generation", "stsp", "prosody", "all"
]  # fmt: skip
# What measures units and voice alone, so that no speech LM is needed.
WITHOUT_LM = {UNITS, "resynthesis", "prosody"}


def work(recipe: Recipe, given: Namespace) -> None:
    """Prints what each benchmark gives, and keeps it in the run.

    Raises:
        TwistError: a benchmark's data is missing or laid out otherwise, or the model does not fit.
    """
    from model.training import checkpoint_steps
    from pipeline.evaluation import results
    from pipeline.evaluation.evaluate import BENCHMARKS, require_heard, submission_of

    quiet_transformers()
    names = _names(recipe, given)
    folder = given.checkpoint
    if folder is None and set(names) - WITHOUT_LM:
        folder = checkpoint_steps.best_folder(storage.join(recipe.run, "checkpoints"))
    output = _output(recipe, given, names)
    if PERPLEXITY in names:
        _perplexity(recipe, given, folder, output)
    with progress("evaluate") as report:
        subject = _subject(recipe, given, folder, output, report)
        for name in names:
            if name != PERPLEXITY:
                require_heard(subject, name)
            for result in BENCHMARKS[name](subject) if name != PERPLEXITY else ():
                uri = results.write(subject.folder_of(result), result)
                print(json.dumps(results.as_json(result)) if given.json else f"{results.as_text(result)}\n{uri}")
            if submitted := submission_of(recipe.evaluation, name):
                # Behind --json, stdout is for results alone.
                print(f"submission written: {submitted}", file=sys.stderr if given.json else sys.stdout)


def _perplexity(recipe: Recipe, given: Namespace, folder: str, output: str) -> None:
    from pipeline.evaluation import results
    from pipeline.evaluation.perplexity import evaluate_perplexity, table
    from pipeline.evaluation.subject import name_of

    shards = given.shards or storage.join(recipe.run, "shards")
    has_kinds = recipe.train is not None and recipe.train.mixture is not None
    if recipe.train is not None and recipe.train.expressive:
        _perplexity_of_kinds(recipe, given, folder, shards, output)
        return
    evaluation = evaluate_perplexity(
        folder,
        shards,
        given.split,
        given.max_units,
        ngram_units=given.ngram_units,
        level=given.level,
        seed=given.seed,
        device=given.device,
        dtype=given.dtype,
    )
    print(json.dumps(evaluation.as_dict()) if given.json else table(evaluation), flush=True)
    if output:
        try:
            results.write(storage.join(output, name_of(folder, output)), evaluation.result)
        except OSError as error:  # another's run can be measured, too
            speech_options.warner("evaluate")(f"the result cannot be kept: {error}")
    if has_kinds and evaluation.knows_text:
        _perplexity_of_kinds(recipe, given, folder, shards, output)


def _perplexity_of_kinds(recipe: Recipe, given: Namespace, folder: str, shards: str, output: str) -> None:
    from pipeline.evaluation import results
    from pipeline.evaluation.kinds import perplexity_of_kinds
    from pipeline.evaluation.subject import name_of
    from pipeline.runs import TEXT

    assert recipe.train is not None
    result = perplexity_of_kinds(
        folder,
        shards,
        storage.join(recipe.run, TEXT),
        recipe.train,
        given.split,
        level=given.level,
        seed=given.seed,
        device=given.device,
        dtype=given.dtype,
    )
    print(json.dumps(results.as_json(result)) if given.json else results.as_text(result), flush=True)
    if output:
        try:
            results.write(storage.join(output, name_of(folder, output)), result)
        except OSError as error:
            speech_options.warner("evaluate")(f"the result cannot be kept: {error}")


def _names(recipe: Recipe, given: Namespace) -> list[str]:
    """The benchmarks to measure, each once."""
    named = [name for name in given.names if name != ALL]
    if ALL in given.names:
        has_shards = given.shards or storage.exists(storage.join(recipe.run, "shards", "dataset.json"))
        named += [PERPLEXITY] if has_shards else []
        knows_text = recipe.train is not None and recipe.train.mixture is not None
        named += ["matching"] if has_shards and knows_text else []
        named += [name for name, data in _data_of(recipe.evaluation).items() if data]
        if not named:
            raise TwistError(
                f"there is nothing to measure on: no shards in {recipe.run or 'a run'}, and the recipe's `evaluation:` "
                f"names no data of {', '.join(_data_of(recipe.evaluation))}"
            )
    return list(dict.fromkeys(named))


def _data_of(config: EvaluationConfig) -> dict[str, str | None]:
    """What each benchmark is given to measure on."""
    return {
        "swuggy": config.swuggy.folder,
        "sblimp": config.sblimp.folder,
        "storycloze": config.storycloze.spoken or config.storycloze.topic or config.storycloze.cross,
        "salmon": config.salmon.folder,
        "pairs": config.pairs.source,
        "choices": config.choices.questions,
        "asr": config.asr.examples,
        "tts": config.tts.examples and config.tts.stop and config.tts.asr,
        "intent": config.intent.source and config.intent.examples,
        UNITS: config.units.audio,
        "resynthesis": config.resynthesis.asr,
        "generation": config.generation.asr and config.generation.text_lm,
        "stsp": config.stsp.folder,
        "prosody": config.prosody.source,
    }


def _output(recipe: Recipe, given: Namespace, names: Sequence[str]) -> str:
    """Where results are kept; "" if nowhere, which perplexity alone allows: it is one look."""
    if given.output or recipe.run:
        return given.output or storage.join(recipe.run, "evaluation")
    if set(names) - {PERPLEXITY}:
        raise TwistError("say where units and results are kept: give --run RUN or --output FOLDER")
    return ""


def _needs_run(given: Namespace) -> bool:
    """Whether a run must be named, as it holds what is to be measured, or is to hold the results."""
    if set(given.names) <= WITHOUT_LM:
        return not given.output
    return not ((given.shards or given.output) and given.checkpoint)


def _subject(recipe: Recipe, given: Namespace, folder: str | None, output: str, report: ReportProgress) -> Subject:
    from pipeline.evaluation.subject import Subject

    return Subject(
        checkpoint=folder,
        codebook_source=given.codebook or recipe.run or EMBEDDED_CODEBOOK,
        run=recipe.run,
        output=output,
        config=recipe.evaluation,
        cluster=recipe.cluster,
        device=given.device,
        dtype=given.dtype,
        report=report,
        level=given.level,
        seed=given.seed,
        pitch_model=recipe.pitch.model,
        style_model=recipe.style.model,
        extractor=recipe.pitch.extractor,
    )


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="+",
        type=Name,
        help="What to measure; `all`: whatever there is data for.",
    )
    parser.add_argument(
        "--checkpoint",
        type=str | None,
        help="Checkpoint folder, local or s3://; the best of RUN/checkpoints unless given.",
    )
    speech_options.add_codebook(parser)
    parser.add_argument("--output", type=str | None, help="Folder for units and results; RUN/evaluation unless given.")
    parser.add_argument(
        "--shards", type=str | None, help="perplexity: folder of the shards, local or s3://; RUN/shards unless given."
    )
    parser.add_argument(
        "--split",
        type=Literal["train", "validation", "test"],
        default="validation",
        help="perplexity: the split to measure on.",
    )
    add_option(
        parser,
        "max-units",
        type=int,
        default=704,
        help="perplexity: units that a sample has at most; longer ones are cut.",
    )
    add_option(
        parser,
        "ngram-units",
        type=PositiveInt,
        default=5_000_000,
        help="perplexity: training units that n-gram models beside it count at most; of more, some are drawn.",
    )
    parser.add_argument("--level", type=float, default=0.95, help="Share of draws that confidence intervals hold.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of what is drawn for confidence intervals.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object for each result.")
    speech_options.add_device(parser)


_measure = command(
    "evaluate",
    __doc__,
    work,
    sections=("evaluation", "cluster", "pitch", "style"),
    add_arguments=_add_arguments,
    needs_run=_needs_run,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `twist evaluate`, or the command of its first argument."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in OTHERS:
        return OTHERS[arguments[0]](arguments[1:])
    return _measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
