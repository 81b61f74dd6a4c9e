"""Sets the results of runs and checkpoints side by side, with intervals, differences and what papers print."""

from __future__ import annotations

import json
import sys
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from jobs.command import add_option, command
from jobs.recipe import Recipe


def work(_: Recipe, given: Namespace) -> None:
    """Prints the table.

    Raises:
        TwistError: a place holds no results, or a file there is damaged.
    """
    from pipeline.evaluation.table import as_json, as_markdown, as_text, make_table

    table = make_table(given.places, all_measures=given.all_measures, level=given.level, seed=given.seed)
    if given.format == "json":
        print(json.dumps(as_json(table)))
    else:
        print(as_markdown(table) if given.format == "markdown" else as_text(table))


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("places", nargs="+", type=str, help="Runs, or folders of results; local or s3://.")
    add_option(
        parser,
        "all-measures",
        action="store_true",
        help="All measures of each benchmark; else the one that papers print.",
    )
    parser.add_argument("--format", type=Literal["text", "markdown", "json"], default="text", help="How to print it.")
    parser.add_argument("--level", type=float, default=0.95, help="Share of draws that intervals of differences hold.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of these draws.")


main = command("evaluate table", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
