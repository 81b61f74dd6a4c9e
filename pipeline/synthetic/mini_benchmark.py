"""A small benchmark of our own making, in the layouts of the real ones, so that all can be tried without a download.

    FOLDER/lexical/dev, FOLDER/syntactic/dev    words and sentences in pairs, as sLM21 has them (gold.csv and audio)
    FOLDER/sSC, FOLDER/tSC                      stories, as Spoken StoryCloze has them
    FOLDER/benchmark.json                       the settings it was made with

Figures on it compare models of one demo with each other, and with chance; not with those that papers print.
"""

from __future__ import annotations

import csv
import functools
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from pipeline.synthetic.benchmark_folder import make_benchmark
from pipeline.synthetic.config import ENGLISH_VOICES, MiniBenchmarkConfig
from pipeline.synthetic.espeak import synthesize
from pipeline.synthetic.mini_stories import mini_stories
from pipeline.synthetic.minimal_pairs import sentence_pairs, word_pairs
from pipeline.synthetic.piper import SUFFIX, load_piper_voice
from pipeline.synthetic.stories import write_storycloze

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress
    from pipeline.synthetic.config import Voice
    from pipeline.synthetic.stories import Speak

# Raise it when the same settings start to give other bytes.
EDITION = 2
LEXICAL = ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct")
SYNTACTIC = ("filename", "id", "voice", "type", "subtype", "transcription", "correct")


def write_mini_benchmark(folder: Path, config: MiniBenchmarkConfig, report: ReportProgress) -> None:
    """Makes the benchmark in `folder`, unless it is there already; one configuration always gives the same bytes.

    Raises:
        TwistError: the folder holds something else, or a benchmark of other settings.
    """
    settings = {name: value for name, value in asdict(config).items() if value is not None} | {"edition": EDITION}
    make_benchmark(folder, settings, lambda partial: _write(partial, config, report))


def _write(folder: Path, config: MiniBenchmarkConfig, report: ReportProgress) -> None:
    speakers = _speakers(config)
    words = word_pairs(random.Random(config.seed), config.num_words)
    rows: list[tuple[object, ...]] = []
    for number, pair in enumerate(words):
        for speaker, say in speakers.items():
            for correct, text in ((1, pair.word), (0, pair.non_word)):
                name = _speak(folder / "lexical" / "dev", f"w{number:04d}-{speaker}-{correct}", text, say)
                frequency = pair.frequency if correct else ""
                rows.append((name, number, speaker, frequency, text, "", len(text), correct))
        report(number + 1, len(words), "words")
    _write_gold(folder / "lexical" / "dev", LEXICAL, rows)

    sentences = sentence_pairs(random.Random(config.seed), config.num_sentences)
    rows = []
    for number, sentence in enumerate(sentences):
        for speaker, say in speakers.items():
            for correct, text in ((1, sentence.good), (0, sentence.bad)):
                name = _speak(folder / "syntactic" / "dev", f"s{number:04d}-{speaker}-{correct}", text, say)
                rows.append((name, number, speaker, sentence.type, sentence.subtype, text, correct))
        report(number + 1, len(sentences), "sentences")
    _write_gold(folder / "syntactic" / "dev", SYNTACTIC, rows)

    stories = mini_stories(random.Random(config.seed), config.num_stories)
    write_storycloze(folder, stories, next(iter(speakers.values())), config.seed, report)


def _speakers(config: MiniBenchmarkConfig) -> dict[str, Speak]:
    """What says a text, by the name of its speaker."""
    if config.piper is not None:
        return {Path(config.piper).name.removesuffix(SUFFIX): load_piper_voice(config.piper)}
    # Voices that the demo's speech has, too: what is tested is the model, not whether it knows a voice.
    voices = ENGLISH_VOICES[1 : 1 + config.num_voices]
    return {voice.speaker: functools.partial(_say, voice=voice) for voice in voices}


def _say(text: str, voice: Voice) -> tuple[NDArray[np.int16], int]:
    return synthesize(text, voice.espeak_voice, words_per_minute=voice.words_per_minute, pitch=voice.pitch)


def _speak(folder: Path, name: str, text: str, say: Speak) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    wav, rate_hz = say(text)
    soundfile.write(folder / f"{name}.wav", wav, rate_hz)
    return name


def _write_gold(folder: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with (folder / "gold.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)
