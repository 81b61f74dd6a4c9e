"""Checks this machine: packages, GPU, Ray, codecs, memory, disks, a run's folder, corpora, clock.

Each line begins with ok, note (it works, but read it) or BROKEN, with what to do below it; the exit status is 1 if
something that is needed is broken.
"""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from jobs.command import FAILURE, guard
from jobs.recipe import usage_error
from pipeline.files import storage
from pipeline.printable import printable


def work(given: Namespace) -> bool:
    """Prints what is found; returns whether all that is needed works."""
    from pipeline.inspection.machine import examine

    all_works = True
    run = storage.absolute(given.run) if given.run else None
    corpora = tuple(map(storage.absolute, [given.audio] if given.audio else []))
    for finding in examine(run, corpora):
        state = "BROKEN" if finding.state == "broken" else finding.state
        print(printable(f"{state:<7} {finding.what:<20} {finding.told}"), flush=True)
        if finding.remedy:
            print(printable(f"{'':<28} -> {finding.remedy}"))
        all_works = all_works and finding.state != "broken"
    return all_works


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    all_works = True

    def read_and_work() -> None:
        nonlocal all_works
        parser = ArgumentParser(prog="twist doctor", description=__doc__, exit_on_error=False, allow_abbrev=False)
        parser.add_argument("--run", type=str | None, help="A run's folder, local or s3://: may it be written?")
        parser.add_argument("--audio", type=str | None, help="A corpus' folder, local or s3://: may it be read?")
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise usage_error(error, arguments, parser) from error
        all_works = work(given)

    return guard("doctor", read_and_work) or (0 if all_works else FAILURE)


if __name__ == "__main__":
    sys.exit(main())
