"""Speech of one synthesized voice, to train a small vocoder on.

    FOLDER/<number>.flac, FOLDER/metadata.csv
    FOLDER/corpus.json      the configuration it was made with, and what it holds

A plain folder corpus. Each recording is one or a few sentences as espeak-ng speaks them, without room or noise.
"""

from __future__ import annotations

import csv
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from pipeline.records import SAMPLE_RATE_HZ
from pipeline.synthetic.config import VoiceConfig
from pipeline.synthetic.corpus_folder import make_corpus
from pipeline.synthetic.espeak import synthesize
from pipeline.synthetic.many_voices import prose
from pipeline.synthetic.sentences import paragraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress

# Raise it when the same configuration starts to give other bytes.
EDITION = 1
DEMO_SENTENCE_SHARE = 0.5
MIN_RECORDING_S = 4.0
PAUSE_S = (0.1, 0.4)
PEAK = 0.7
LANGUAGE = "en"  # of the sentences


def write_voice_corpus(folder: Path, config: VoiceConfig, report: ReportProgress | None = None) -> float:
    """Makes the corpus in `folder` unless it is there already; one configuration always gives the same bytes.

    Returns:
        The corpus' length in seconds.

    Raises:
        TwistError: the folder holds a corpus of another configuration, or something else; or there is no such voice.
    """
    summary = make_corpus(
        folder, "corpus of one voice", EDITION, asdict(config), lambda root: _write(root, config, report)
    )
    return float(summary["duration_s"])


def _write(root: Path, config: VoiceConfig, report: ReportProgress | None) -> dict[str, float]:
    rng = random.Random(f"voice {config.seed}")
    sentences = _sentences(rng)
    duration_s = 0.0
    with (root / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "language", "text"))
        for number in range(10**6):
            wav, text = _recording(sentences, rng, config)
            path = f"{number:06d}.flac"
            soundfile.write(root / path, wav, SAMPLE_RATE_HZ, subtype="PCM_16")
            # No speaker: a split by speakers would leave one side empty.
            rows.writerow((path, LANGUAGE, text))
            duration_s += len(wav) / SAMPLE_RATE_HZ
            if report is not None:
                report(min(round(duration_s), round(60 * config.minutes)), round(60 * config.minutes), "seconds")
            if duration_s >= 60 * config.minutes:
                break
    return {"duration_s": duration_s}


def _sentences(rng: random.Random) -> Iterator[str]:
    of_prose = prose()
    demo = (sentence for paragraph in paragraphs("en", rng) for sentence in paragraph)
    while True:
        yield next(demo) if rng.random() < DEMO_SENTENCE_SHARE else rng.choice(of_prose)


def _recording(sentences: Iterator[str], rng: random.Random, config: VoiceConfig) -> tuple[NDArray[np.float32], str]:
    pieces: list[NDArray[np.float32]] = []
    said: list[str] = []
    while sum(map(len, pieces)) < MIN_RECORDING_S * SAMPLE_RATE_HZ:
        said.append(next(sentences))
        samples, rate_hz = synthesize(
            said[-1], config.voice, words_per_minute=config.words_per_minute, pitch=config.pitch
        )
        pieces.append(soxr.resample(samples.astype(np.float32) / 2**15, rate_hz, SAMPLE_RATE_HZ))
        pieces.append(np.zeros(int(rng.uniform(*PAUSE_S) * SAMPLE_RATE_HZ), np.float32))
    wav = np.concatenate(pieces)
    return wav * np.float32(PEAK / np.abs(wav).max()), " ".join(said)
