"""Pretrains a HuBERT on a run's audio and units, alone or under torchrun, continuing from the newest checkpoint."""

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
    from model.encoder.hubert_trainer import PretrainResult


def work(recipe: Recipe, checkpoints: str | None = None) -> PretrainResult:
    """Pretrains until the recipe's last step and prints the result.

    Raises:
        Stopped: pretraining was stopped by a signal before its last step.
    """
    from model.encoder.hubert_trainer import pretrain
    from pipeline.units.labelled_clips import read_clips

    is_of_the_run = checkpoints is None
    checkpoints = checkpoints or storage.join(recipe.run, "tokenizer")
    train_clips, validation_clips = read_clips(recipe.run, recipe.pretrain.validation_share)
    stopped_by = int(signal.SIGTERM)
    with progress("pretrain") as report:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal stopped_by
            if event["event"] == "start":
                if is_of_the_run:
                    keep(recipe, ("pretrain",))
                resumed = f", from step {event['step']}" if event["step"] else ""
                too_short = f" ({event['num_too_short']:,} are too short)" if event["num_too_short"] else ""
                tqdm.write(
                    f"pretrain   {event['num_parameters'] / 1e6:.2f}M parameters, {event['hours']:.2f} h in "
                    f"{event['num_clips']:,} clips{too_short} with {event['codebook_size']} kinds of units, "
                    f"{event['world_size']} process(es) on {event['device']}{resumed}"
                )
            elif event["event"] == "init":
                tqdm.write(f"pretrain   {event['num_taken']} of {event['num_all']} tensors from {recipe.pretrain.init}")
            elif event["event"] == "stopped":
                stopped_by = event["signal"]
            elif event["event"] == "step":
                detail = (
                    f"loss {event['masked_loss']:.3f}, {event['masked_accuracy']:.1%} of masked frames, "
                    f"{event['audio_s_per_s']:.0f} times real time"
                )
                report(event["step"], recipe.pretrain.num_steps, "steps", detail)
            elif event["event"] == "validation":
                quality = event["validation"]
                tqdm.write(
                    f"pretrain   step {event['step']}: validation loss {quality['masked_loss']:.3f}, "
                    f"{quality['masked_accuracy']:.1%} of masked and {quality['unmasked_accuracy']:.1%} of other "
                    "frames predicted"
                )

        result = pretrain(recipe.pretrain, train_clips, validation_clips, checkpoints, on_event)
    if not result.is_finished:
        raise Stopped(stopped_by, f"step {result.num_steps} is saved")
    if is_first_process():
        assert result.best is not None
        print(
            f"pretrain   {result.num_steps} steps over {result.hours_seen:,.1f} h; "
            f"{result.best.masked_accuracy:.1%} of masked frames predicted at best, in {result.checkpoint}",
            flush=True,
        )
    return result


def _add_checkpoints(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=str | None, help="Folder of checkpoints, local or s3://; RUN/tokenizer unless given."
    )


main = command(
    "pretrain-tokenizer",
    __doc__,
    lambda recipe, given: work(recipe, given.checkpoints),
    ("pretrain",),
    _add_checkpoints,
)


if __name__ == "__main__":
    sys.exit(main())
