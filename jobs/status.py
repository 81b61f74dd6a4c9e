"""Says how far a run is, also from another machine: rate, time left, limiting step, stragglers, quarantine, cost."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from jobs.command import add_option, guard
from jobs.recipe import usage_error
from jobs.recipe_text import UsageError
from pipeline.files import storage


def work(given: Namespace) -> None:
    """Prints the state of every stage that was begun."""
    from pipeline.inspection.status import as_text, status

    stages = status(storage.absolute(given.run), time.time())
    print(json.dumps(stages, indent=2) if given.json else as_text(stages, given.price_per_hour))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv

    def read_and_work() -> None:
        parser = _parser()
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise usage_error(error, arguments, parser) from error
        if given.json and given.price_per_hour is not None:
            raise UsageError("--price-per-hour is for people; --json gives the seconds of each stage")
        work(given)

    return guard("status", read_and_work)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="twist status", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("run", type=str, help="The run's folder, local or s3://bucket/prefix.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, with everything.")
    add_option(parser, "price-per-hour", type=float | None, help="Price of an hour of all machines together.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
