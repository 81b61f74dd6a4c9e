"""Makes the demo's speech: a folder of synthesized recordings with metadata, always the same with the same packages."""

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
        languages = ", ".join(f"{name} {s / 60:.1f} min" for name, s in summary.duration_s_by_language.items())
        print(
            f"synthesize {summary.duration_s / 60:.1f} min in {summary.num_recordings} recordings by "
            f"{summary.num_speakers} speakers ({languages}) in {given.folder}"
        )

    return guard("synthesize", work)


if __name__ == "__main__":
    sys.exit(main())
