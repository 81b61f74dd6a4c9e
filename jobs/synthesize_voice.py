"""Makes speech of one voice, to train a vocoder on."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from jobs.command import guard, progress
from jobs.recipe import UsageError
from pipeline.voice_corpus import VoiceConfig, write_voice_corpus


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        parser = ArgumentParser(
            prog="twist synthesize-voice", description=__doc__, exit_on_error=False, allow_abbrev=False
        )
        parser.add_argument("folder", type=str, help="The folder to make.")
        parser.add_class_arguments(VoiceConfig, "speech")
        try:
            given = parser.instantiate(parser.parse_args(list(arguments)))
        except ArgumentError as error:
            raise UsageError(" ".join(str(error).split())) from error
        with progress("voice") as report:
            duration_s = write_voice_corpus(Path(given.folder), given.speech, report)
        print(f"voice      {duration_s / 60:.1f} min of {given.speech.voice} in {given.folder}")

    return guard("synthesize-voice", work)


if __name__ == "__main__":
    sys.exit(main())
