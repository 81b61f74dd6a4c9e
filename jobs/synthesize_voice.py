"""Makes speech of one voice, to train a vocoder on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard
from jobs.progress import progress
from jobs.recipe import read_settings
from pipeline.synthetic.config import VoiceConfig
from pipeline.synthetic.one_voice import write_voice_corpus


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        folder, settings = read_settings("synthesize-voice", __doc__, VoiceConfig, arguments)
        with progress("voice") as report:
            duration_s = write_voice_corpus(folder, settings, report)
        print(f"voice      {duration_s / 60:.1f} min of {settings.voice} in {folder}")

    return guard("synthesize-voice", work)


if __name__ == "__main__":
    sys.exit(main())
