"""Trains a vocoder on a run's audio and units, alone or under torchrun, continuing from the newest checkpoint."""

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
from pipeline.runs import CODEBOOK
from pipeline.work.shares import is_first_process

if TYPE_CHECKING:
    from model.vocoder.trainer import VocoderResult


def work(recipe: Recipe, checkpoints: str | None = None) -> VocoderResult:
    """Trains until the recipe's last step and prints the result.

    Raises:
        Stopped: training was stopped by a signal before its last step.
    """
    from model.vocoder.trainer import train_vocoder
    from pipeline.units import codebook
    from pipeline.units.voice_clips import read_voice_clips

    config = recipe.vocoder
    is_of_the_run = checkpoints is None
    checkpoints = checkpoints or storage.join(recipe.run, "vocoder")
    train, validation = read_voice_clips(recipe.run, config.validation_share, config.model, recipe.pitch.model)
    fingerprint = codebook.load(storage.join(recipe.run, CODEBOOK)).fingerprint
    stopped_by = int(signal.SIGTERM)
    with progress("vocoder") as report:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal stopped_by
            if event["event"] == "start":
                if is_of_the_run:
                    keep(recipe, ("vocoder",))
                resumed = f", from step {event['step']}" if event["step"] else ""
                knows = [f"codes of {name}" for name in config.model.num_codes]
                knows += [f"{len(train.speakers)} speakers"] if config.model.multispkr else []
                knows += ["F0 as these say it"] if config.model.source_harmonics else []
                if knows:
                    left_out = train.num_left_out + validation.num_left_out
                    tqdm.write(f"vocoder    takes {' and '.join(knows)}; {left_out:,} segments lack one of these")
                too_short = f" ({event['num_too_short']:,} are too short)" if event["num_too_short"] else ""
                tqdm.write(
                    f"vocoder    {event['num_parameters'] / 1e6:.2f}M parameters, its discriminators "
                    f"{event['num_discriminator_parameters'] / 1e6:.2f}M; {event['hours']:.2f} h in "
                    f"{event['num_clips']:,} clips{too_short}, {event['world_size']} process(es) on "
                    f"{event['device']}{resumed}"
                )
                if config.sample_every and not event["draws_pictures"]:
                    tqdm.write("vocoder    samples come without pictures: the extra `plots` (matplotlib) is missing")
            elif event["event"] == "stopped":
                stopped_by = event["signal"]
            elif event["event"] == "step":
                detail = f"mel distance {event['mel_distance']:.3f}, {event['audio_s_per_s']:.1f} times real time"
                report(event["step"], config.num_steps, "steps", detail)
            elif event["event"] == "validation":
                quality = event["validation"]
                tqdm.write(
                    f"vocoder    step {event['step']}: validation mel distance {quality['mel_distance']:.3f}, squared "
                    f"error of log durations {quality['duration_error']:.3f}"
                )

        result = train_vocoder(config, train, validation, fingerprint, checkpoints, on_event)
    if not result.is_finished:
        raise Stopped(stopped_by, f"step {result.num_steps} is saved")
    if is_first_process():
        best = f"; mel distance {result.best.mel_distance:.3f} at best" if result.best else ""
        print(
            f"vocoder    {result.num_steps} steps over {result.hours_seen:,.1f} h{best}, in {result.checkpoint}",
            flush=True,
        )
    return result


def _add_checkpoints(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=str | None, help="Folder of checkpoints, local or s3://; RUN/vocoder unless given."
    )


main = command(
    "train-vocoder", __doc__, lambda recipe, given: work(recipe, given.checkpoints), ("vocoder",), _add_checkpoints
)


if __name__ == "__main__":
    sys.exit(main())
