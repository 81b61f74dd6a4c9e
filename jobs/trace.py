"""Says what became of a recording, segment, sample or file in a run: its path through every stage, in one screen."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from jobs.command import add_option, guard
from jobs.recipe import usage_error
from pipeline.files import storage


def work(given: Namespace) -> None:
    """Traces a name through a run.

    Raises:
        TwistError: the run has nothing of that name, or its audio cannot be read.
    """
    from pipeline.tracing.text import as_text
    from pipeline.tracing.trace import trace

    traced = trace(storage.absolute(given.run), given.name)
    print(json.dumps(traced, indent=2) if given.json else as_text(traced))
    if given.play_to:
        from pipeline.records import SAMPLE_RATE_HZ
        from pipeline.speaking.spoken import write_wav
        from pipeline.tracing.audio import audio_of

        write_wav(Path(given.play_to), audio_of(traced), SAMPLE_RATE_HZ)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv

    def read_and_work() -> None:
        parser = _parser()
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise usage_error(error, arguments, parser) from error
        work(given)

    return guard("trace", read_and_work)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="twist trace", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "name", type=str, help="The id of a recording or segment, the key of a sample, or a file of audio."
    )
    parser.add_argument("--run", type=str, required=True, help="The run's folder, local or s3://bucket/prefix.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, with every segment and drop.")
    add_option(parser, "play-to", type=str | None, help="WAV to write the audio to, cut from the original recording.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
