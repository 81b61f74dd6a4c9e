"""Makes the demo's speech: a folder of synthesized recordings with metadata, always the same with the same packages."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.command import guard
from jobs.progress import progress
from jobs.recipe import read_settings
from pipeline.synthetic.config import DemoCorpusConfig
from pipeline.synthetic.demo import write_demo_corpus


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        folder, settings = read_settings("synthesize", __doc__, DemoCorpusConfig, arguments)
        with progress("synthesize") as report:
            summary = write_demo_corpus(folder, settings, report)
        languages = ", ".join(f"{name} {s / 60:.1f} min" for name, s in summary.duration_s_by_language.items())
        print(
            f"synthesize {summary.duration_s / 60:.1f} min in {summary.num_recordings} recordings by "
            f"{summary.num_speakers} speakers ({languages}) in {folder}"
        )

    return guard("synthesize", work)


if __name__ == "__main__":
    sys.exit(main())
