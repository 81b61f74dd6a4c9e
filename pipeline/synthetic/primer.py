"""Speech of a reading primer: one voice, short sentences of a few hundred words, each word with its times.

    FOLDER/<number>.flac, FOLDER/metadata.csv
    FOLDER/aligned_text.jsonl   a line a recording: file_name, text, aligned_text (words with their times, as slamkit
                                has them)
    FOLDER/corpus.json          the configuration it was made with, and what it holds

In minutes of such speech each word is said often enough for a small model to learn which units it is made of. A
recording is one sentence, and no sentence is said twice: which text belongs to which speech cannot be learned by heart.
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from pipeline.corpora.alignments.word_json import ALIGNED_TEXT
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.synthetic.corpus_folder import make_corpus
from pipeline.synthetic.espeak import speak
from pipeline.synthetic.sentences import MEN, WOMEN
from pipeline.synthetic.word_times import word_times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.progress import ReportProgress
    from pipeline.synthetic.config import PrimerConfig

# Raise it when the same configuration starts to give other bytes.
EDITION = 1
LANGUAGE = "en"

# Each sentence is a person, what they did with a thing, and perhaps where and when.
PEOPLE = (*WOMEN[:6], *MEN[:6])
DID = ("found", "lost", "bought", "sold", "painted", "carried", "wanted", "mended", "saw", "borrowed")
KINDS = ("small", "green", "heavy", "broken", "golden", "old", "yellow", "wooden", "clean", "purple")
THINGS = (
    "boat", "chair", "basket", "lamp", "violin", "window", "bicycle", "pumpkin", "horse", "clock", "hammer", "garden",
)  # fmt: skip
PLACES = (
    "behind the church", "under the bridge", "beside the river", "in the kitchen", "near the school", "on the hill",
    "at the market", "by the harbour",
)  # fmt: skip
TIMES = ("yesterday", "on Monday", "in winter", "before breakfast", "last summer", "at midnight")
SHARE_WITH_PLACE, SHARE_WITH_TIME = 0.7, 0.3
# Above it, chance would go on for ever to find sentences that were not said.
MOST_SENTENCES = 20_000


def primer_sentences(rng: random.Random) -> Iterator[str]:
    """Sentences of the primer, MOST_SENTENCES of them, no two alike."""
    said: set[str] = set()
    while len(said) < MOST_SENTENCES:
        words = [rng.choice(PEOPLE), rng.choice(DID), "the", rng.choice(KINDS), rng.choice(THINGS)]
        if rng.random() < SHARE_WITH_PLACE:
            words.append(rng.choice(PLACES))
        if rng.random() < SHARE_WITH_TIME:
            words.append(rng.choice(TIMES))
        sentence = " ".join(words) + "."
        if sentence not in said:
            said.add(sentence)
            yield sentence


def write_primer(folder: Path, config: PrimerConfig, report: ReportProgress | None = None) -> float:
    """Makes the corpus in `folder` unless it is there already; one configuration always gives the same bytes.

    Returns:
        The corpus' length in seconds.

    Raises:
        TwistError: the folder holds a corpus of another configuration, or something else; or there is no such voice.
    """
    summary = make_corpus(folder, "primer", EDITION, asdict(config), lambda root: _write(root, config, report))
    return float(summary["duration_s"])


def _write(root: Path, config: PrimerConfig, report: ReportProgress | None) -> dict[str, float]:
    sentences = primer_sentences(random.Random(f"primer {config.seed}"))
    duration_s = 0.0
    with (
        (root / "metadata.csv").open("w", encoding="utf-8", newline="") as metadata,
        (root / ALIGNED_TEXT).open("w", encoding="utf-8", newline="") as alignments,
    ):
        rows = csv.writer(metadata, lineterminator="\n")
        rows.writerow(("path", "language", "text"))  # no speaker: a split by speakers would leave one side empty
        for number in range(config.num_sentences):
            sentence = next(sentences)
            speech = speak(sentence, config.voice, words_per_minute=config.words_per_minute)
            wav = soxr.resample(speech.wav.astype(np.float32) / 2**15, speech.sample_rate_hz, SAMPLE_RATE_HZ)
            path = f"{number:05d}.flac"
            soundfile.write(root / path, wav, SAMPLE_RATE_HZ, subtype="PCM_16")
            rows.writerow((path, LANGUAGE, sentence))
            # slamkit puts words together as they are, so that each brings the blank before it.
            words = [[f" {word}", round(start, 4), round(end, 4)] for word, start, end in word_times(sentence, speech)]
            alignments.write(f"{json.dumps({'file_name': path, 'text': sentence, 'aligned_text': words})}\n")
            duration_s += len(wav) / SAMPLE_RATE_HZ
            if report is not None:
                report(number + 1, config.num_sentences, "sentences")
    return {"duration_s": duration_s}
