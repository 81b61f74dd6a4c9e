"""Trains a pitch tokenizer on the segments of a run, alone or under torchrun, going on from the newest checkpoint."""

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
from pipeline.runs import PITCH_MODEL
from pipeline.work.shares import is_first_process

if TYPE_CHECKING:
    from model.pitch.trainer import PitchQuality, PitchResult


def work(recipe: Recipe, checkpoints: str | None = None) -> PitchResult:
    """Trains until the recipe's last step and prints the result.

    Raises:
        Stopped: training was stopped by a signal before its last step.
    """
    from model.pitch.trainer import PitchQuality, train_pitch
    from pipeline.pitch.contours import read_contours

    config = recipe.train_pitch
    is_of_the_run = checkpoints is None
    checkpoints = checkpoints or storage.join(recipe.run, PITCH_MODEL)
    with progress("contours") as report:
        train, validation, num_unread = read_contours(recipe.run, config, checkpoints, report)
    if num_unread:
        tqdm.write(f"pitch      {num_unread:,} segments cannot be read, and are left out")
    stopped_by = int(signal.SIGTERM)
    with progress("pitch") as report:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal stopped_by
            if event["event"] == "start":
                if is_of_the_run:
                    keep(recipe, ("train_pitch",))
                resumed = f", from step {event['step']}" if event["step"] else ""
                too_short = f" ({event['num_too_short']:,} more are too short)" if event["num_too_short"] else ""
                tqdm.write(
                    f"pitch      {event['num_parameters'] / 1e6:.2f}M parameters; {event['hours']:.2f} h in "
                    f"{event['num_clips']:,} segments{too_short}, {event['num_validation_clips']:,} of other speakers, "
                    f"{event['world_size']} process(es) on {event['device']}{resumed}"
                )
            elif event["event"] == "stopped":
                stopped_by = event["signal"]
            elif event["event"] == "step":
                detail = f"loss {event['loss']:.4g}, {event['audio_s_per_s']:,.0f} times real time"
                report(event["step"], config.num_steps, "steps", detail)
            elif event["event"] == "validation":
                tqdm.write(f"pitch      step {event['step']}: {_told(PitchQuality(**event['validation']), config)}")

        result = train_pitch(config, train, validation, checkpoints, on_event)
    if not result.is_finished:
        raise Stopped(stopped_by, f"step {result.num_steps} is saved")
    if is_first_process():
        best = f"; at best {_told(result.best, config)}" if result.best else ""
        print(
            f"pitch      {result.num_steps} steps over {result.hours_seen:,.1f} h{best}, in {result.checkpoint}",
            flush=True,
        )
    return result


def _told(quality: PitchQuality, config: Any) -> str:
    return (
        f"F0 off by {quality.f0_error_cents:.0f} cents, voicing wrong in {quality.voicing_error:.1%} of frames, "
        f"{quality.codes_used} of {config.model.num_codes} codes (perplexity {quality.code_perplexity:.1f})"
    )


def _add_checkpoints(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=str | None, help="Folder of checkpoints, local or s3://; RUN/pitch_model unless given."
    )


main = command(
    "train-pitch", __doc__, lambda recipe, given: work(recipe, given.checkpoints), ("train_pitch",), _add_checkpoints
)


if __name__ == "__main__":
    sys.exit(main())
