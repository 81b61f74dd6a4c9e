"""Tunes a speech LM on preference pairs (DPO), alone, under torchrun or on Ray, from the newest checkpoint on."""

from __future__ import annotations

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
from pipeline.runs import PREFERENCES, TUNED
from pipeline.work.shares import is_first_process

if TYPE_CHECKING:
    from model.preferences.trainer import TuneResult


def work(
    recipe: Recipe, pairs: str | None = None, checkpoints: str | None = None, ray_workers: int | None = None
) -> TuneResult:
    """Tunes until the recipe's last step and prints the result.

    Args:
        recipe: The settings.
        pairs: Folder of the preference pairs; by default RUN/preferences.
        checkpoints: Folder for checkpoints; by default RUN/tuned.
        ray_workers: Number of processes on the Ray cluster that tune instead of this one.

    Raises:
        Stopped: tuning was stopped by a signal before its last step.
    """
    from model.preferences.trainer import tune
    from model.training import checkpoint_steps

    quiet_transformers()
    config = recipe.tune
    pairs = pairs or storage.join(recipe.run, PREFERENCES)
    is_of_the_run = checkpoints is None
    checkpoints = checkpoints or storage.join(recipe.run, TUNED)
    init = config.init or checkpoint_steps.best_folder(storage.join(recipe.run, "checkpoints"))
    stopped_by = int(signal.SIGTERM)
    with progress("tune") as report:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal stopped_by
            if event["event"] == "start":
                if is_of_the_run:
                    keep(recipe, ("tune",))
                resumed = f", from step {event['step']}" if event["step"] else ""
                too_long = f" ({event['num_too_long']:,} more are too long)" if event["num_too_long"] else ""
                tqdm.write(
                    f"tune       {event['num_parameters'] / 1e6:.1f}M parameters of {init}, "
                    f"{event['num_train_pairs']:,} pairs{too_long}, {event['num_validation_pairs']:,} to validate on, "
                    f"{event['world_size']} process(es) on {event['device']}{resumed}"
                )
            elif event["event"] == "stopped":
                stopped_by = event["signal"]
            elif event["event"] == "step":
                detail = f"loss {event['loss']:.3f}, {event['pairs_per_s']:.1f} pairs/s"
                report(event["step"], config.num_steps, "steps", detail)

        if ray_workers is None:
            result = tune(config, init, pairs, checkpoints, on_event)
        else:
            from jobs.train_on_ray import tune_on_ray

            result = tune_on_ray(config, init, pairs, checkpoints, ray_workers, on_event)
    if not result.is_finished:
        raise Stopped(stopped_by, f"step {result.num_steps} is saved")
    if is_first_process():
        assert result.best is not None
        print(
            f"tune       {result.num_steps} steps over {result.num_pairs_seen:,} pairs; of {result.best.num_pairs:,} "
            f"held-out pairs the better ending is the likelier in {result.initial.accuracy:.1%} before, "
            f"{result.best.accuracy:.1%} at best, in {result.checkpoint}",
            flush=True,
        )
    return result


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pairs", type=str | None, help="Folder of the pairs, local or s3://; RUN/preferences unless given."
    )
    parser.add_argument(
        "--checkpoints", type=str | None, help="Folder of checkpoints, local or s3://; RUN/tuned unless given."
    )
    add_option(
        parser,
        "ray-workers",
        type=PositiveInt | None,
        help="Tune on the Ray cluster (RAY_ADDRESS, or this machine) with this many processes, a GPU each if any.",
    )


main = command(
    "tune",
    __doc__,
    lambda recipe, given: work(recipe, given.pairs, given.checkpoints, given.ray_workers),
    ("tune",),
    _add_arguments,
    needs_run=lambda given: not (given.pairs and given.checkpoints and given.tune.init),
)


if __name__ == "__main__":
    sys.exit(main())
