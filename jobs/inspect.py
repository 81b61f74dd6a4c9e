"""Describes a run, or its manifest, segments, units, shards, codebook or checkpoints, and verifies its files."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from jobs.command import guard, quiet_transformers
from jobs.recipe import usage_error
from jobs.recipe_text import UsageError
from pipeline.errors import TwistError
from pipeline.files import storage


def work(given: Namespace) -> None:
    """Describes what is at a path.

    Raises:
        TwistError: the path holds nothing that a run makes, or --verify finds violations.
    """
    from pipeline.inspection.describe import describe, kind_of
    from pipeline.inspection.plots import write_plots
    from pipeline.inspection.text import as_text
    from pipeline.inspection.verify import verify

    path = given.path.rstrip("/") if storage.is_s3(given.path) else os.path.normpath(storage.absolute(given.path))
    kind = kind_of(path)
    if given.verify or kind == "checkpoint":  # these load models
        quiet_transformers()
    description: dict[str, Any] = {"path": path, "kind": kind}
    if given.verify:
        description["violations"] = list(dict.fromkeys(verify(path, kind, not given.no_checksums)))
    if not description.get("violations"):  # the figures of damaged files would mean nothing
        description |= describe(path, kind)
    if given.plots and not description.get("violations"):
        description["plots"] = write_plots(description, Path(given.plots))
    print(json.dumps(description, indent=2) if given.json else as_text(description))
    if description.get("violations"):
        count = len(description["violations"])
        raise TwistError(f"{path} is damaged: {count} violation{'s' if count > 1 else ''}, listed above")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv

    def read_and_work() -> None:
        parser = _parser()
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise usage_error(error, arguments, parser) from error
        if given.no_checksums and not given.verify:
            raise UsageError("--no-checksums says how to verify; give --verify, too")
        work(given)

    return guard("inspect", read_and_work)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="twist inspect", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("path", type=str, help="A run, or any folder of one; local or s3://.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, with everything.")
    parser.add_argument("--verify", action="store_true", help="Check checksums and every invariant of the files.")
    parser.add_argument(
        "--no-checksums",
        action="store_true",
        help="With --verify, leave out what takes reading every byte: checksums, parts of units, tars.",
    )
    parser.add_argument(
        "--plots",
        type=str | None,
        help="Folder for pictures (PNG) of how often units occur, and of how long samples are.",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
