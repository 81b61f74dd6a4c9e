"""Tunes a HuBERT so that its units depend less on speaker and recording (Spin), on the segments of a run."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from tqdm import tqdm

from jobs.command import command
from jobs.kept_recipe import keep
from jobs.progress import progress
from jobs.recipe import Recipe
from jobs.stopping import Stopped
from pipeline.files import storage
from pipeline.work.shares import is_first_process

if TYPE_CHECKING:
    from model.encoder.spin_trainer import SpinResult


def work(recipe: Recipe, checkpoints: str | None = None) -> SpinResult:
    """Tunes until the recipe's last step and prints the result.

    Raises:
        Stopped: tuning was stopped by a signal before its last step.
    """
    from model.encoder.spin_trainer import tune
    from pipeline.segments.spoken_clips import read_spoken_clips

    spin = recipe.spin
    is_of_the_run = checkpoints is None
    checkpoints = checkpoints or storage.join(recipe.run, "tokenizer")
    train_clips, validation_clips = read_spoken_clips(recipe.run, spin.validation_share, spin.phones)
    stopped_by = int(signal.SIGTERM)
    with progress("spin") as report:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal stopped_by
            if event["event"] == "start":
                if is_of_the_run:
                    keep(recipe, ("spin",))
                resumed = f", from step {event['step']}" if event["step"] else ""
                too_short = f" ({event['num_too_short']:,} are too short)" if event["num_too_short"] else ""
                phones = f", {event['num_phones']} kinds of phones" if event["num_phones"] else ""
                tqdm.write(
                    f"spin       {event['num_trained'] / 1e6:.2f}M of {event['num_parameters'] / 1e6:.2f}M parameters, "
                    f"{event['hours']:.2f} h in {event['num_clips']:,} clips{too_short}{phones}, "
                    f"{event['world_size']} process(es) on {event['device']}{resumed}"
                )
            elif event["event"] == "init":
                tqdm.write(f"spin       begins with {event['path']}")
            elif event["event"] == "stopped":
                stopped_by = event["signal"]
            elif event["event"] == "step":
                detail = (
                    f"loss {event['loss']:.3f}, {event['same_code']:.1%} of frames with the same code, "
                    f"{event['audio_s_per_s']:.0f} times real time"
                )
                report(event["step"], spin.num_steps, "steps", detail)
            elif event["event"] == "validation":
                tqdm.write(f"spin       step {event['step']}: validation {_told(event['validation'])}")

        result = tune(spin, train_clips, validation_clips, checkpoints, on_event)
    if not result.is_finished:
        raise Stopped(stopped_by, f"step {result.num_steps} is saved")
    if is_first_process():
        assert result.best is not None
        print(
            f"spin       {result.num_steps} steps over {result.hours_seen:,.1f} h; {result.best.same_code:.1%} of "
            f"validation frames with the same code in both views at best, in {result.checkpoint}",
            flush=True,
        )
    return result


def _told(score: dict[str, float]) -> str:
    phones = f", {score['phone_accuracy']:.1%} of phones" if score["phone_accuracy"] else ""
    return f"loss {score['loss']:.3f}, {score['same_code']:.1%} of frames with the same code{phones}"


def _add_checkpoints(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=str | None, help="Folder of checkpoints, local or s3://; RUN/tokenizer unless given."
    )


main = command(
    "tune-tokenizer",
    __doc__,
    lambda recipe, given: work(recipe, given.checkpoints),
    ("spin",),
    _add_checkpoints,
)


if __name__ == "__main__":
    sys.exit(main())
