"""Trains a small classifier of spoken languages on the segments of a run, going on from the newest checkpoint.

Each segment has the language that its corpus states. The classifier tells one language from all others, and reads the
frames of a tokenizer's lower layers, which are stored with it: language.audio.model names its folder.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from tqdm import tqdm

from jobs.command import command
from jobs.kept_recipe import keep
from jobs.progress import progress
from jobs.recipe import Recipe
from jobs.stopping import Stopped
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import LANGUAGE_CLASSIFIER, LANGUAGE_TRAINING
from pipeline.work.shares import is_first_process

if TYPE_CHECKING:
    from model.language_id.trainer import LanguageQuality, LanguageResult


def work(recipe: Recipe, output: str | None = None) -> LanguageResult:
    """Trains until the recipe's last step, calibrates, writes the classifier and prints the result.

    Raises:
        Stopped: training was stopped by a signal before its last step.
        TwistError: the classifier would be written to S3, or see train_language.
    """
    from model.language_id.pooled_folder import PooledFacts, write_pooled
    from model.language_id.trainer import LanguageQuality, train_language
    from pipeline.language.train_frames import read_language_frames, trained_on

    config = recipe.train_language
    checkpoints = storage.join(recipe.run, LANGUAGE_TRAINING)
    folder = output or storage.join(recipe.run, LANGUAGE_CLASSIFIER)
    if storage.is_s3(folder):
        raise TwistError(f"{folder} lies on S3: name a local folder by --output, and copy the classifier there")
    with progress("frames") as report:
        train, validation, account = read_language_frames(recipe.run, config, checkpoints, report)
    left_out = {
        "state no language": account.num_without_language,
        "are too short, or beyond the limit of a speaker or language": account.num_beyond,
        "cannot be read": account.num_unread,
    }
    for why, number in left_out.items():
        if number:
            tqdm.write(f"language   {number:,} segments {why}, and are left out")
    stopped_by = int(signal.SIGTERM)
    with progress("language") as report:

        def on_event(event: dict[str, Any]) -> None:
            nonlocal stopped_by
            if event["event"] == "start":
                keep(recipe, ("train_language",))
                resumed = f", from step {event['step']}" if event["step"] else ""
                tqdm.write(
                    f"language   {event['num_parameters'] / 1e6:.2f}M parameters; {event['hours']:.2f} h in "
                    f"{event['num_clips']:,} clips of {event['num_languages']} languages, "
                    f"{event['num_validation_windows']:,} windows of other speakers, "
                    f"{event['world_size']} process(es) on {event['device']}{resumed}"
                )
            elif event["event"] == "stopped":
                stopped_by = event["signal"]
            elif event["event"] == "step":
                detail = f"loss {event['loss']:.4g}, {event['audio_s_per_s']:,.0f} times real time"
                report(event["step"], config.num_steps, "steps", detail)
            elif event["event"] == "validation":
                tqdm.write(f"language   step {event['step']}: {_told(LanguageQuality(**event['validation']))}")

        result = train_language(config, train, validation, checkpoints, on_event)
    if not result.is_finished:
        raise Stopped(stopped_by, f"step {result.num_steps} is saved")
    if is_first_process():
        assert result.calibration is not None
        facts = PooledFacts(config.model, config.layer, result.labels, result.calibration, trained_on(train, config))
        write_pooled(Path(folder), config.encoder, result.weights, facts)
        best = f"; at best {_told(result.best)}" if result.best else ""
        print(
            f"language   {result.num_steps} steps{best}; another language below {result.calibration.other_below:.3f}, "
            f"{config.wanted} from {result.calibration.wanted_from:.3f}, in {folder}",
            flush=True,
        )
    return result


def _told(quality: LanguageQuality) -> str:
    return (
        f"loss {quality.loss:.4f} on held-out speakers, {quality.others_found:.0%} of other languages found where a "
        f"tenth of the wanted one is lost"
    )


def _add_output(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=str | None, help="The classifier's folder; RUN/language_classifier unless given."
    )


main = command(
    "train-language",
    __doc__,
    lambda recipe, given: work(recipe, given.output),
    ("train_language",),
    _add_output,
)


if __name__ == "__main__":
    sys.exit(main())
