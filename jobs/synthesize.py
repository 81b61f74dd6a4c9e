"""Makes the demo's speech: a folder of synthesized recordings with metadata, the same on every machine."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from jobs.command import guard, progress
from jobs.recipe import UsageError
from pipeline.demo_corpus import DemoCorpusConfig, write_demo_corpus


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        parser = ArgumentParser(prog="twist synthesize", description=__doc__, exit_on_error=False, allow_abbrev=False)
        parser.add_argument("folder", type=str, help="The folder to make.")
        parser.add_class_arguments(DemoCorpusConfig, "speech")
        try:
            given = parser.instantiate(parser.parse_args(list(arguments)))
        except ArgumentError as error:
            raise UsageError(" ".join(str(error).split())) from error
        with progress("synthesize") as report:
            summary = write_demo_corpus(Path(given.folder), given.speech, report)
        print(f"synthesize {summary}")

    return guard("synthesize", work)


if __name__ == "__main__":
    sys.exit(main())
