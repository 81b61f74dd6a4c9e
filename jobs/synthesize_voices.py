"""Makes speech of many voices with its phonemes, to pretrain a tokenizer on and to measure it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard
from jobs.progress import progress
from jobs.recipe import read_settings
from pipeline.synthetic.config import VoicesConfig
from pipeline.synthetic.many_voices import write_voices_corpus


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        folder, settings = read_settings("synthesize-voices", __doc__, VoicesConfig, arguments)
        with progress("voices") as report:
            summary = write_voices_corpus(folder, settings, report)
        print(
            f"voices     {summary.train_hours:.2f} h to train on in {summary.num_train_recordings:,} recordings, "
            f"{summary.test_hours * 60:.1f} min to test on in {summary.num_test_recordings:,}, in {folder}"
        )

    return guard("synthesize-voices", work)


if __name__ == "__main__":
    sys.exit(main())
