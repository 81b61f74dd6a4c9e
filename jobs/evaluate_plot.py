"""Draws trained runs side by side: validation perplexity over steps, and over the share of the training data."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser, Namespace

from jobs.command import command
from jobs.recipe import Recipe
from pipeline.errors import TwistError


def work(_: Recipe, given: Namespace) -> None:
    """Draws the picture.

    Raises:
        TwistError: matplotlib is missing, or a run was not trained.
    """
    from model.vocoder import mel_picture
    from pipeline.evaluation.plot import draw, read_curve

    if not mel_picture.is_available():
        raise TwistError("pictures need matplotlib; install this project's extra `plots`")
    draw([read_curve(run) for run in given.runs], given.output)
    print(f"drawn      {given.output}")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="Runs that were trained; local or s3://.")
    parser.add_argument("--output", type=str, required=True, help="The PNG file to write.")


main = command("evaluate plot", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
