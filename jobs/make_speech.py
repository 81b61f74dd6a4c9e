"""Makes a folder of synthesized speech; the same packages and settings give the same bytes.

twist make-speech demo FOLDER: 20 minutes by ten English speakers and others, untidy as a real corpus, for the demo.
twist make-speech voices FOLDER: many voices, some of it with phonemes, to pretrain and evaluate a tokenizer.
twist make-speech voice FOLDER: one voice, to train a vocoder.
"""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from jobs.command import guard
from jobs.progress import progress
from jobs.recipe import usage_error
from pipeline.synthetic.config import DemoCorpusConfig, VoiceConfig, VoicesConfig


def demo(folder: Path, speech: DemoCorpusConfig) -> None:
    """Makes the demo's corpus."""
    from pipeline.synthetic.demo import write_demo_corpus

    with progress("speech") as report:
        summary = write_demo_corpus(folder, speech, report)
    languages = ", ".join(f"{name} {s / 60:.1f} min" for name, s in summary.duration_s_by_language.items())
    print(
        f"speech     {summary.duration_s / 60:.1f} min in {summary.num_recordings} recordings by "
        f"{summary.num_speakers} speakers ({languages}) in {folder}"
    )


def voices(folder: Path, speech: VoicesConfig) -> None:
    """Makes speech of many voices, some of it with phonemes, to pretrain and evaluate a tokenizer."""
    from pipeline.synthetic.many_voices import write_voices_corpus

    with progress("speech") as report:
        summary = write_voices_corpus(folder, speech, report)
    print(
        f"speech     {summary.train_hours:.2f} h to train on in {summary.num_train_recordings:,} recordings, "
        f"{summary.test_hours * 60:.1f} min to test on in {summary.num_test_recordings:,}, in {folder}"
    )


def voice(folder: Path, speech: VoiceConfig) -> None:
    """Makes speech of one voice, to train a vocoder."""
    from pipeline.synthetic.one_voice import write_voice_corpus

    with progress("speech") as report:
        duration_s = write_voice_corpus(folder, speech, report)
    print(f"speech     {duration_s / 60:.1f} min of {speech.voice} in {folder}")


KINDS: dict[str, tuple[Callable[[Path, Any], None], type]] = {
    "demo": (demo, DemoCorpusConfig),
    "voices": (voices, VoicesConfig),
    "voice": (voice, VoiceConfig),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv

    def read_and_make() -> None:
        parser = _parser()
        try:
            given = parser.instantiate(parser.parse_args(list(arguments)))
        except ArgumentError as error:
            raise usage_error(error) from error
        make, _ = KINDS[given.kind]
        settings = given[given.kind]
        make(Path(settings.folder), settings.speech)

    return guard("make-speech", read_and_make)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="twist make-speech", description=__doc__, exit_on_error=False, allow_abbrev=False)
    kinds = parser.add_subcommands(dest="kind")
    for name, (make, settings) in KINDS.items():
        kind = ArgumentParser(description=make.__doc__, exit_on_error=False, allow_abbrev=False)
        kind.add_argument("folder", type=str, help="The folder to make.")
        kind.add_class_arguments(settings, "speech")
        kinds.add_subcommand(name, kind, help=make.__doc__)
    return parser


if __name__ == "__main__":
    sys.exit(main())
