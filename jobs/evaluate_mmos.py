"""A human study of what speech LMs say: `prepare` makes clips and a page to rate them on, `score` reads the answers.

`twist evaluate mmos prepare --sets FOLDER... --models RUN... --output STUDY` draws recordings of each set, has each
model continue their first seconds, and adds the recordings themselves and their resynthesis. Raters open
STUDY/page/index.html, or see it on MTurk. `twist evaluate mmos score ANSWERS... --study STUDY` turns their answers into
mean opinion scores with CrowdMOS' intervals.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from jobs import speech_options
from jobs.command import USERS_MISTAKE, add_option, command, quiet_transformers
from jobs.progress import progress
from jobs.recipe import Recipe
from model.lm.sampling_config import SamplingConfig
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from jobs.command import Main

PREPARE, SCORE = "prepare", "score"


def prepare(_: Recipe, given: Namespace) -> None:
    """Makes a study.

    Raises:
        TwistError: a set, model, voice or anchor is missing, or they do not fit together.
    """
    from pipeline.evaluation.mmos.anchors import read_anchors
    from pipeline.evaluation.mmos.study import StudyConfig, prepare_study
    from pipeline.evaluation.mmos.systems import find_model

    quiet_transformers()
    output = _local(given.output)
    config = StudyConfig(
        num_clips=given.num_clips,
        prompt_s=given.prompt_duration_sec,
        continuation_s=given.continuation_duration_sec,
        min_s=given.min_duration_sec,
        clips_per_part=given.clips_per_part,
        seed=given.seed,
    )
    sampling = SamplingConfig(
        temperature=given.temperature,
        top_k=None if given.top_k == 0 else given.top_k,
        top_p=given.top_p,
        seed=given.seed,
    )
    models = [find_model(name, source, given.codebook) for name, source in map(_named, given.models)]
    sets = [
        CorpusConfig(source, name=name if "=" in text else None)
        for text in given.sets
        for name, source in [_named(text)]
    ]
    with progress("mmos prepare") as report:
        study = prepare_study(
            output,
            config,
            sets,
            models,
            read_anchors(given.anchors) if given.anchors else (),
            sampling,
            vocoder=given.vocoder,
            device=given.device,
            report=report,
        )
    print(f"{study['num_clips']:,} clips in {study['num_parts']:,} parts: {output / 'page' / 'index.html'}")
    print(f"keep {output / 'key.csv'} from raters: it says which clip is which system")


def score(_: Recipe, given: Namespace) -> None:
    """Prints what raters think of each system, and keeps it in the study.

    Raises:
        TwistError: there is no such study, or the answers are not of it.
    """
    from pipeline.evaluation.mmos import score as scoring

    config = scoring.ScoreConfig(given.outlier_z, given.max_outlier_share, given.min_correlation, given.level)
    study = _local(given.study)
    scores = scoring.score_study(study, given.answers, config, given.raters)
    uri = scoring.write(study, scores)
    print(json.dumps(scoring.as_json(scores)) if given.json else f"{scoring.as_text(scores)}\n{uri}")


def _local(folder: str) -> Path:
    """The folder of a study.

    Raises:
        TwistError: it is on S3.
    """
    if storage.is_s3(folder):
        raise TwistError(f"a study lies on this machine's disk, from which its page is opened or sent; not at {folder}")
    return Path(folder)


def _named(text: str) -> tuple[str, str]:
    """NAME=SOURCE, or a source that goes by the end of its path: of RUN/checkpoints/STEP, by RUN and STEP.

    Raises:
        TwistError: a side of the = is empty.
    """
    name, equals, source = text.partition("=")
    if not equals:
        parts = [part for part in text.rstrip("/").split("/") if part]
        is_step = len(parts) > 2 and parts[-2] == "checkpoints"
        return (f"{parts[-3]}-{parts[-1]}" if is_step else (parts or [text])[-1]), text
    if not name or not source:
        raise TwistError(f"{text!r} is not NAME=SOURCE")
    return name, source


def _add_prepare(parser: ArgumentParser) -> None:
    def add(name: str, kind: Any, default: Any, text: str) -> None:
        add_option(parser, name, type=kind, default=default, help=text)

    several = "its name goes before it, as in NAME=FOLDER, unless the folder's will do"
    parser.add_argument(
        "--sets", nargs="+", type=str, required=True, help=f"Recordings to draw from: folders or manifests; {several}."
    )
    parser.add_argument(
        "--models",
        nargs="+",
        type=str,
        required=True,
        help=f"Runs, checkpoints or published names; {several}. The first one's units and voice make the resynthesis.",
    )
    parser.add_argument("--output", type=str, required=True, help="The study's folder.")
    parser.add_argument("--anchors", type=str | None, help="CSV of clips of known score: path, score.")
    speech_options.add_codebook(parser)
    speech_options.add_voice(parser)
    add("num-clips", int, 50, "Recordings of each set.")
    add("prompt-duration-sec", float, 3.0, "Seconds that models continue.")
    add("continuation-duration-sec", float, 10.0, "Seconds of the continuation.")
    add("min-duration-sec", float, 6.0, "Seconds that a recording must have.")
    add("clips-per-part", int, 20, "Clips that a rater does at a time, anchors apart.")
    sampling = SamplingConfig()
    add("temperature", float, sampling.temperature, "What log-probabilities are divided by; 0: the likeliest unit.")
    add("top-k", int, sampling.top_k, "Draw among this many likeliest units; 0: all.")
    add("top-p", float | None, sampling.top_p, "Draw among the likeliest units that have this probability together.")
    add("seed", int, 0, "Seed of all that is drawn.")
    speech_options.add_device(parser)


def _add_score(parser: ArgumentParser) -> None:
    def add(name: str, default: float, text: str) -> None:
        add_option(parser, name, type=float, default=default, help=text)

    parser.add_argument("answers", nargs="+", type=str, help="CSV files: the page's downloads, or a batch's of MTurk.")
    parser.add_argument("--study", type=str, required=True, help="The study's folder.")
    parser.add_argument("--raters", nargs="+", type=str, help="Who may have answered; anybody unless given.")
    add("outlier-z", 2.5, "A score this many standard deviations off the mean of its set and system is left out.")
    add("max-outlier-share", 0.05, "A rater with a larger share of these is left out.")
    add("min-correlation", 0.25, "A rater whose scores correlate less with those of all raters is left out.")
    add("level", 0.95, "Confidence of intervals.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


_COMMANDS: dict[str, Main] = {
    PREPARE: command(
        f"evaluate mmos {PREPARE}", __doc__, prepare, add_arguments=_add_prepare, needs_run=lambda _: False
    ),
    SCORE: command(f"evaluate mmos {SCORE}", __doc__, score, add_arguments=_add_score, needs_run=lambda _: False),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `twist evaluate mmos prepare` or `score`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in _COMMANDS:
        is_help = arguments[:1] in (["-h"], ["--help"])
        print(
            f"usage: twist evaluate mmos {{{','.join(_COMMANDS)}}} [--help] ...",
            file=sys.stdout if is_help else sys.stderr,
        )
        return 0 if is_help else USERS_MISTAKE
    return _COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
