"""Trains a speech language model on shards, alone, under torchrun or on Ray, from the newest checkpoint on."""

from __future__ import annotations

import importlib.util
import signal
import sys
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from jobs.command import add_option, command, quiet_transformers
from jobs.kept_recipe import keep
from jobs.progress import progress
from jobs.recipe import Recipe
from jobs.stopping import Stopped
from pipeline.files import storage
from pipeline.runs import TEXT
from pipeline.text_table import in_columns
from pipeline.work.shares import is_first_process

if TYPE_CHECKING:
    from model.lm.perplexity import PerplexityReport
    from model.lm.trainer import TrainResult


def work(
    recipe: Recipe,
    shards: str | None = None,
    checkpoints: str | None = None,
    ray_workers: int | None = None,
    text: str | None = None,
) -> TrainResult:
    """Trains until the recipe's last step and prints the result.

    Args:
        recipe: The settings.
        shards: Folder of the shards; by default RUN/shards.
        checkpoints: Folder for checkpoints; by default RUN/checkpoints.
        ray_workers: Number of processes on the Ray cluster that train instead of this one.
        text: Folder of the shards of text, for a mixture; by default RUN/text.

    Raises:
        Stopped: training was stopped by a signal before its last step.
    """
    from jobs.train_on_ray import train_on_ray
    from model.lm.trainer import train

    quiet_transformers()
    assert recipe.train is not None
    shards = shards or storage.join(recipe.run, "shards")
    is_of_the_run = checkpoints is None
    checkpoints = checkpoints or storage.join(recipe.run, "checkpoints")
    is_main = is_first_process()
    first_step = 0
    stopped_by = int(signal.SIGTERM)
    has_text = recipe.train.mixture is not None and recipe.train.mixture.text > 0
    text = (text or storage.join(recipe.run, TEXT)) if has_text else None
    with progress("train") as report:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal first_step, stopped_by
            if event["event"] == "start":
                if is_of_the_run:
                    keep(recipe, ("train",))
                first_step = event["step"]
                resumed = f", from step {first_step}" if first_step else ""
                tqdm.write(
                    f"train      {event['num_parameters'] / 1e6:.1f}M parameters, {event['num_train_units']:,} units "
                    f"in {event['num_train_samples']:,} samples, {event['world_size']} process(es) on "
                    f"{event['device']}{resumed}"
                )
            elif event["event"] == "stopped":
                stopped_by = event["signal"]
            elif event["event"] == "step":
                detail = f"loss {event['loss']:.3f}, {event['tokens_per_s']:.0f} units/s"
                report(event["step"], recipe.train.num_steps if recipe.train else 0, "steps", detail)

        if ray_workers is None:
            result = train(recipe.train, shards, checkpoints, on_event, text)
        else:
            result = train_on_ray(recipe.train, shards, checkpoints, ray_workers, on_event, text)
    if not result.is_finished:
        raise Stopped(stopped_by, f"step {result.num_steps} is saved")
    if is_main:
        _draw_curve(checkpoints)
        was_finished = "already finished: " if first_step == result.num_steps else ""
        assert result.best is not None
        print(
            f"train      {was_finished}{result.num_steps} steps over {result.num_units_seen:,} units; validation "
            f"perplexity {result.initial.mean.perplexity:.2f} before, {result.best.mean.perplexity:.2f} at best"
            + (f", {result.baseline.mean.perplexity:.2f} unigram" if recipe.train.mixture is None else "")
            + _best_ngram(result),
            flush=True,
        )
        if recipe.train.mixture is not None:
            print(f"\n{_table_of_kinds(result, result.best)}\n", flush=True)
        if num_steps := result.num_steps - first_step:
            left_out = f"; {result.num_skipped:,} damaged ones left out" if result.num_skipped else ""
            print(
                f"units      those of {num_steps * recipe.train.batch_size:,} samples, and of validation, held to "
                f"{result.held_to}{left_out}",
                flush=True,
            )
    return result


def _best_ngram(result: TrainResult) -> str:
    from model.lm.ngram import best_order

    if not result.ngrams:
        return ""
    order = best_order(result.ngrams)
    return f", {result.ngrams[order].mean.perplexity:.2f} by a {order}-gram of the training's units"


def _table_of_kinds(result: TrainResult, best: PerplexityReport) -> str:
    rows = [("perplexity of", "before", "at best")]
    for kind, score in best.corpora.items():
        rows.append((kind, f"{result.initial.corpora[kind].perplexity:.2f}", f"{score.perplexity:.2f}"))
    # What there was to beat: see MixtureData.baseline.
    rows += [(f"({name})", "", f"{score.perplexity:.2f}") for name, score in result.baseline.corpora.items()]
    return "\n".join(in_columns(rows))


def _draw_curve(checkpoints: str) -> None:
    """Draws the training curve if matplotlib is installed (the extra `plots`)."""
    from model.training.curve_plot import draw_curve

    if importlib.util.find_spec("matplotlib") is not None:
        draw_curve(checkpoints)


def add_checkpoints(parser: ArgumentParser) -> None:
    """Adds --checkpoints, for a folder outside the run's."""
    parser.add_argument(
        "--checkpoints", type=str | None, help="Folder of checkpoints, local or s3://; RUN/checkpoints unless given."
    )


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--shards", type=str | None, help="Folder of the shards, local or s3://; RUN/shards unless given."
    )
    parser.add_argument(
        "--text", type=str | None, help="Folder of the shards of text, for a mixture; RUN/text unless given."
    )
    add_checkpoints(parser)
    add_option(
        parser,
        "ray-workers",
        type=PositiveInt | None,
        help="Train on the Ray cluster (RAY_ADDRESS, or this machine) with this many processes, a GPU each if any.",
    )


main = command(
    "train",
    __doc__,
    lambda recipe, given: work(recipe, given.shards, given.checkpoints, given.ray_workers, given.text),
    ("train",),
    _add_arguments,
    needs_run=lambda given: not (given.shards and given.checkpoints),
)


if __name__ == "__main__":
    sys.exit(main())
