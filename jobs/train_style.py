"""Fits a style model on a run's audio: clusters of its encoder's features, or labels; each second gets a code."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from jobs.command import command
from jobs.progress import progress
from jobs.recipe import Recipe
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import STYLE_MODEL


def work(recipe: Recipe, output: str | None = None) -> None:
    """Fits a style model and prints how well it fits.

    Raises:
        TwistError: labels are missing, nothing can be read, or the model would be written to S3.
    """
    from pipeline.style.fit import fit_style

    folder = output or storage.join(recipe.run, STYLE_MODEL)
    if storage.is_s3(folder):
        raise TwistError(f"{folder} lies on S3: name a local folder by --output, and copy the model there")
    with progress("train-style") as report:
        fit = fit_style(recipe.run, recipe.train_style, recipe.encoder, folder, report)
    told = f"{fit.num_codes} codes on {fit.num_seconds:,} s of speech, perplexity {fit.code_perplexity:.1f}"
    if fit.accuracy is not None:
        told += f", {fit.accuracy:.1%} of {fit.num_held_out:,} s held out told right (commonest label {fit.chance:.1%})"
    else:
        told += f" on {fit.num_held_out:,} s held out"
    print(f"train-style  {told}, in {folder}")


def _add_output(parser: ArgumentParser) -> None:
    parser.add_argument("--output", type=str | None, help="The model's folder; RUN/style_model unless given.")


main = command(
    "train-style",
    __doc__,
    lambda recipe, given: work(recipe, given.output),
    ("train_style", "encoder"),
    _add_output,
)


if __name__ == "__main__":
    sys.exit(main())
