"""Writes the units of a run's shards in another project's files.

`twist export --run RUN --format slamkit --output FOLDER`; docs/export.md says what each format holds.
"""

from __future__ import annotations

import sys
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from jobs.command import command
from jobs.progress import progress
from jobs.recipe import Recipe
from pipeline.files import storage


def work(recipe: Recipe, given: Namespace) -> None:
    """Exports all splits and prints how many samples they have.

    Raises:
        TwistError: there are no finished shards, they do not fit the format, or the folder holds an export already.
    """
    from pipeline.export.export import export_shards
    from pipeline.shards import open_dataset

    dataset = open_dataset(given.shards or storage.join(recipe.run, "shards"))
    with progress("export") as report:
        told = export_shards(dataset, given.format, given.output, report)
    counts = ", ".join(f"{count:,} in {split}" for split, count in told["num_samples"].items())
    print(f"export     samples: {counts}; {given.output}")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=Literal["slamkit", "slm_scaling", "fairseq-km", "zerospeech"],
        required=True,
        help="Whose files to write.",
    )
    parser.add_argument("--output", type=str, required=True, help="The folder to write, local or s3://.")
    parser.add_argument("--shards", type=str | None, help="Folder of the shards; RUN/shards unless given.")


main = command("export", __doc__, work, add_arguments=_add_arguments, needs_run=lambda given: not given.shards)


if __name__ == "__main__":
    sys.exit(main())
