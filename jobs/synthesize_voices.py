"""Makes speech of many voices with its phonemes, to pretrain a tokenizer on and to measure it."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from jobs.command import guard, progress
from jobs.recipe import UsageError
from pipeline.voices_corpus import VoicesConfig, write_voices_corpus


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        parser = ArgumentParser(
            prog="twist synthesize-voices", description=__doc__, exit_on_error=False, allow_abbrev=False
        )
        parser.add_argument("folder", type=str, help="The folder to make.")
        parser.add_class_arguments(VoicesConfig, "speech")
        try:
            given = parser.instantiate(parser.parse_args(list(arguments)))
        except ArgumentError as error:
            raise UsageError(" ".join(str(error).split())) from error
        with progress("voices") as report:
            summary = write_voices_corpus(Path(given.folder), given.speech, report)
        print(
            f"voices     {summary.train_hours:.2f} h to train on in {summary.num_train_recordings:,} recordings, "
            f"{summary.test_hours * 60:.1f} min to test on in {summary.num_test_recordings:,}, in {given.folder}"
        )

    return guard("synthesize-voices", work)


if __name__ == "__main__":
    sys.exit(main())
