"""Makes a folder of synthesized speech; the same packages and settings give the same bytes.

twist make-speech demo FOLDER: 40 minutes by ten English speakers and others, untidy as a real corpus, for the demo.
twist make-speech voices FOLDER: many voices, some of it with phonemes, to pretrain and evaluate a tokenizer.
twist make-speech languages FOLDER: many languages by the same voices, to train a classifier of languages.
twist make-speech voice FOLDER: one voice, to train a vocoder.
twist make-speech primer FOLDER: short sentences of few words, for the demo of speech and text.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.folder_makers import Maker, command_of
from jobs.progress import progress
from pipeline.synthetic.config import DemoCorpusConfig, LanguagesConfig, PrimerConfig, VoiceConfig, VoicesConfig


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


def languages(folder: Path, speech: LanguagesConfig) -> None:
    """Makes speech in many languages by the same voices, to train a classifier of languages on."""
    from pipeline.synthetic.many_languages import write_languages_corpus

    with progress("speech") as report:
        duration_s = write_languages_corpus(folder, speech, report)
    print(f"speech     {duration_s / 3600:.2f} h in many languages in {folder}")


def voice(folder: Path, speech: VoiceConfig) -> None:
    """Makes speech of one voice, to train a vocoder."""
    from pipeline.synthetic.one_voice import write_voice_corpus

    with progress("speech") as report:
        duration_s = write_voice_corpus(folder, speech, report)
    print(f"speech     {duration_s / 60:.1f} min of {speech.voice} in {folder}")


def primer(folder: Path, speech: PrimerConfig) -> None:
    """Makes short sentences of few words in one voice, to train a small model of speech and text on."""
    from pipeline.synthetic.primer import write_primer

    with progress("speech") as report:
        duration_s = write_primer(folder, speech, report)
    print(f"speech     {duration_s / 60:.1f} min in {speech.num_sentences:,} sentences of {speech.voice} in {folder}")


main = command_of(
    "make-speech",
    __doc__,
    {
        "demo": Maker(demo, DemoCorpusConfig),
        "voices": Maker(voices, VoicesConfig),
        "languages": Maker(languages, LanguagesConfig),
        "voice": Maker(voice, VoiceConfig),
        "primer": Maker(primer, PrimerConfig),
    },
)


if __name__ == "__main__":
    sys.exit(main())
