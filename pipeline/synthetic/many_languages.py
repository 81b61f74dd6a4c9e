"""Speech in many languages by the same synthesized voices, to train a classifier of languages on.

    FOLDER/<language>/<number>.flac, FOLDER/metadata.csv
    FOLDER/corpus.json      the configuration it was made with, and its length

A plain folder corpus. Each of espeak-ng's variants speaks every language, so that nothing about a voice, or about how
it is recorded, tells the language. A variant is one speaker in all languages: what is kept for validation is then heard
in none. Half of what is said are sentences; a third, their words in another order, for the sound of a language without
its sentences, which are few; the rest, numbers.
"""

from __future__ import annotations

import csv
import random
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from pipeline.records import SAMPLE_RATE_HZ
from pipeline.synthetic.config import LanguagesConfig
from pipeline.synthetic.corpus_folder import make_corpus
from pipeline.synthetic.espeak import synthesize
from pipeline.synthetic.language_sentences import OF_LANGUAGE, VOICES
from pipeline.synthetic.many_voices import PAUSE_S, PITCHES, VARIANTS, WORDS_PER_MINUTE, prose
from pipeline.synthetic.sentences import paragraphs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress

# Raise it when the same configuration starts to give other bytes.
EDITION = 1
MIN_RECORDING_S = 8.0
SHUFFLED_SHARE, NUMBERS_SHARE = 1 / 3, 1 / 6
LARGEST_NUMBER = 9999
PEAK = 0.7


def write_languages_corpus(folder: Path, config: LanguagesConfig, report: ReportProgress | None = None) -> float:
    """Makes the corpus in `folder` unless it is there already; one configuration always gives the same bytes.

    Returns:
        The corpus' length in seconds.

    Raises:
        TwistError: the folder holds a corpus of another configuration, or something else.
    """
    summary = make_corpus(
        folder, "corpus of many languages", EDITION, asdict(config), lambda root: _write(root, config, report)
    )
    return float(summary["duration_s"])


def _write(root: Path, config: LanguagesConfig, report: ReportProgress | None) -> dict[str, float]:
    total_s = 0.0
    rows: list[tuple[str, str, str, str]] = []
    for done, (language, voices) in enumerate(VOICES.items()):
        (root / language).mkdir()
        rng = random.Random(f"{language} {config.seed}")
        sentences = _sentences(language, rng)
        wanted_s = 60 * (config.english_minutes if language == "en" else config.minutes)
        variants: list[str] = []
        of_language_s = 0.0
        for number in range(10**6):
            if of_language_s >= wanted_s:
                break
            variants = variants or rng.sample(VARIANTS, len(VARIANTS))
            variant = variants.pop()
            wav, text = _recording(sentences, f"{rng.choice(voices)}+{variant}", rng)
            path = f"{language}/{number:05d}.flac"
            soundfile.write(root / path, wav, SAMPLE_RATE_HZ, subtype="PCM_16")
            rows.append((path, language, f"espeak-{variant}", text))
            of_language_s += len(wav) / SAMPLE_RATE_HZ
        total_s += of_language_s
        if report is not None:
            report(done + 1, len(VOICES), "languages")
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "language", "speaker", "text"))
        table.writerows(rows)
    return {"duration_s": total_s}


def _sentences(language: str, rng: random.Random) -> Iterator[str]:
    known = prose() if language == "en" else list(OF_LANGUAGE[language])
    demo = (sentence for paragraph in paragraphs("en", rng) for sentence in paragraph)
    while True:
        kind = rng.random()
        if kind < NUMBERS_SHARE:
            yield ", ".join(str(rng.randint(1, LARGEST_NUMBER)) for _ in range(rng.randint(2, 3))) + "."
        elif kind < NUMBERS_SHARE + SHUFFLED_SHARE:
            yield _shuffled(rng.sample(known, 4), rng)
        elif language == "en" and rng.random() < 0.5:
            yield next(demo)
        else:
            yield rng.choice(known)


def _shuffled(sentences: list[str], rng: random.Random) -> str:
    """A dozen of their words in any order; of a language that writes none apart, their clauses."""
    words = [word.strip(".,;:!?。，？؟¿¡") for sentence in sentences for word in sentence.replace("，", " ").split()]
    return " ".join(rng.sample(words, min(12, len(words)))) + "."


def _recording(sentences: Iterator[str], voice: str, rng: random.Random) -> tuple[NDArray[np.float32], str]:
    words_per_minute, pitch = rng.randint(*WORDS_PER_MINUTE), rng.randint(*PITCHES)
    pieces: list[NDArray[np.float32]] = []
    said: list[str] = []
    while sum(map(len, pieces)) < MIN_RECORDING_S * SAMPLE_RATE_HZ:
        said.append(next(sentences))
        samples, rate_hz = synthesize(said[-1], voice, words_per_minute=words_per_minute, pitch=pitch)
        pieces.append(soxr.resample(samples.astype(np.float32) / 2**15, rate_hz, SAMPLE_RATE_HZ))
        pieces.append(np.zeros(int(rng.uniform(*PAUSE_S) * SAMPLE_RATE_HZ), np.float32))
    wav = np.concatenate(pieces)
    return wav * np.float32(PEAK / max(1e-6, np.abs(wav).max())), " ".join(said)
