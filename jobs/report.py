"""Writes a report of a run: pages to look at and listen to, in a folder that opens from disk or a bucket."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser, Namespace

from jobs.command import add_option, command
from jobs.progress import progress
from jobs.recipe import Recipe
from pipeline.files import storage
from pipeline.report.config import ReportConfig


def work(_: Recipe, given: Namespace) -> None:
    """Writes the report and prints where it is.

    Raises:
        TwistError: the run has no finished manifest, something in it is damaged, or a setting makes no sense.
    """
    from pipeline.report.report import write_report

    run = storage.absolute(given.report_of.rstrip("/"))
    output = storage.absolute(given.output or storage.join(run, "report"))
    speech = storage.absolute(given.speech or storage.join(run, "speech"))
    compared = [storage.absolute(other.rstrip("/")) for other in given.compare]
    config = ReportConfig(given.clips, given.max_audio_mb, given.max_clip_s, not given.no_audio, given.seed)
    with progress("report") as report:
        write_report(run, output, compared, speech, config, report)
    print(f"report     {storage.join(output, 'index.html')}")


def _add_arguments(parser: ArgumentParser) -> None:
    default = ReportConfig()
    parser.add_argument("report_of", metavar="RUN", type=str, help="The run; local or s3://.")
    parser.add_argument(
        "--output", type=str | None, help="The folder to write, local or s3://; RUN/report unless given."
    )
    parser.add_argument(
        "--compare", type=str, nargs="+", default=[], help="Other runs, to show training and results side by side."
    )
    parser.add_argument(
        "--speech", type=str | None, help="Folder with outputs of generate and resynthesize; RUN/speech unless given."
    )
    parser.add_argument(
        "--clips", type=int, default=default.clips, help="Clips to draw of each corpus, and of each reason for a drop."
    )
    add_option(
        parser,
        "max-audio-mb",
        type=float,
        default=default.max_audio_mb,
        help="Megabytes of audio that the report holds at most.",
    )
    add_option(parser, "max-clip-s", type=float, default=default.max_clip_s, help="Seconds of a clip, at most.")
    add_option(parser, "no-audio", action="store_true", help="Copy no audio, and draw no pictures of it.")
    parser.add_argument("--seed", type=int, default=default.seed, help="Seed of the draws.")


main = command("report", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
