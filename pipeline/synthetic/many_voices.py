"""Speech of many synthesized voices, to pretrain a speech tokenizer on and to measure it against known phonemes.

    FOLDER/train/<speaker>/<number>.flac, FOLDER/train/metadata.csv, FOLDER/train/phonemes.parquet
    FOLDER/test/<speaker>/<sentence>.flac, FOLDER/test/metadata.csv, FOLDER/test/phonemes.parquet
    FOLDER/corpus.json      the configuration it was made with, and what it holds

Both trees are plain folder corpora. In test, a few speakers all say the same sentences; neither these voices nor
these sentences are in train. Training recordings differ in loudness, noise and room, so that a tokenizer learns to
ignore them. The text is from Python's own documentation and the demo's paragraphs, and so depends on the version of
Python.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import soundfile
import soxr

from pipeline.files import parquet
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.synthetic.config import VoicesConfig
from pipeline.synthetic.corpus_folder import make_corpus
from pipeline.synthetic.espeak import Heard, speak
from pipeline.synthetic.sentences import paragraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress

PHONEMES = "phonemes.parquet"
# Raise it when the same configuration starts to give other bytes, so that an old corpus is not mistaken for a new one.
EDITION = 2  # 1 had no phonemes of training recordings

ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029",
)  # fmt: skip
# espeak-ng's variants that sound like a person.
VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Lee",
    "Marco", "Mario", "Michael", "Mike", "Nguyen", "Reed", "adam", "anika", "antonio", "aunty", "belinda", "benjamin",
    "boris", "caleb", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "grandma", "grandpa", "gustave",
    "ian", "iven", "iven2", "iven3", "iven4", "john", "kaukovalta", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7",
    "m8", "marcelo", "max", "michel", "miguel", "mike2", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert",
    "sandro", "shelby", "steph", "steph2", "steph3", "travis", "victor", "zac",
)  # fmt: skip
# The test speakers' variants, which no training speaker has.
TEST_VARIANTS = ("m3", "f2", "Andy", "linda", "norbert", "steph2")
NUM_TRAIN_SPEAKERS = 400
WORDS_PER_MINUTE = (120, 210)
PITCHES = (15, 90)

SENTENCE_CHARACTERS = (30, 120)
DEMO_SENTENCE_SHARE = 0.5
MIN_RECORDING_S = 10.0
PAUSE_S = (0.1, 0.4)

ROOM_SHARE = 0.5  # of recordings
ROOM_DECAY_S = (0.02, 0.15)
ROOM_LEVEL = (0.1, 0.5)  # of the echo, relative to the direct sound
SIGNAL_TO_NOISE_DB = (20.0, 45.0)
PEAK = (0.1, 0.9)

HEARD_TYPE = pa.struct([("name", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())])
PHONEMES_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("speaker", pa.string()),
        ("sentence", pa.int32()),
        ("phonemes", pa.list_(HEARD_TYPE)),
        ("words", pa.list_(HEARD_TYPE)),
    ]
)


@dataclass(frozen=True)
class VoicesSummary:
    """What a corpus of voices holds."""

    num_train_recordings: int
    train_hours: float
    num_test_recordings: int
    test_hours: float


@dataclass(frozen=True)
class _Voice:
    speaker: str
    espeak_voice: str
    words_per_minute: int
    pitch: int


@dataclass(frozen=True)
class _Script:
    """A recording to be made. `sentence` is its number in test; None in train, where room and noise are added."""

    path: str
    voice: _Voice
    sentences: tuple[str, ...]
    sentence: int | None
    seed: tuple[int, ...]


@dataclass(frozen=True)
class _Recorded:
    num_samples: int
    text: str
    phonemes: list[Heard]
    words: list[Heard]


def write_voices_corpus(folder: Path, config: VoicesConfig, report: ReportProgress | None = None) -> VoicesSummary:
    """Makes the corpus in `folder` unless it is there already; one configuration always gives the same bytes.

    It is made in a hidden folder beside `folder`, on all cores, and renamed when complete.

    Raises:
        TwistError: the folder holds a corpus of another configuration, or something else.
    """
    summary = make_corpus(
        folder, "corpus of voices", EDITION, asdict(config), lambda root: asdict(_write(root, config, report))
    )
    return VoicesSummary(**summary)


def prose() -> list[str]:
    """The sentences of Python's documentation that can be read out unchanged, in alphabetical order."""
    shortest, longest = SENTENCE_CHARACTERS
    found: set[str] = set()
    for topic in topics.values():
        for paragraph in re.split(r"\n\s*\n", re.sub(r"[`*\"]+", "", topic)):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if shortest <= len(sentence) <= longest and re.fullmatch(r"[A-Z][A-Za-z ,;:'-]+[.!?]", sentence):
                    found.add(sentence)
    return sorted(found)


def _write(root: Path, config: VoicesConfig, report: ReportProgress | None) -> VoicesSummary:
    scripts = {"train": list(_train_scripts(config)), "test": list(_test_scripts(config))}
    hours = {}
    done, total = 0, sum(map(len, scripts.values()))
    # Spawned workers, since espeak-ng does not get along with the threads of a forked process.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for split, of_split in scripts.items():
            recorded = []
            for result in pool.map(_record, [(str(root / split), script) for script in of_split], chunksize=16):
                recorded.append(result)
                done += 1
                if report is not None:
                    report(done, total, "recordings")
            _write_metadata(root / split, of_split, recorded)
            hours[split] = sum(result.num_samples for result in recorded) / SAMPLE_RATE_HZ / 3600
            _write_phonemes(root / split, of_split, recorded)
    return VoicesSummary(len(scripts["train"]), hours["train"], len(scripts["test"]), hours["test"])


def _train_scripts(config: VoicesConfig) -> Iterator[_Script]:
    rng = random.Random(f"train {config.seed}")
    combinations = [(accent, variant) for accent in ACCENTS for variant in VARIANTS if variant not in TEST_VARIANTS]
    voices = [
        _Voice(f"voice{number:03d}", f"{accent}+{variant}", rng.randint(*WORDS_PER_MINUTE), rng.randint(*PITCHES))
        for number, (accent, variant) in enumerate(rng.sample(combinations, NUM_TRAIN_SPEAKERS))
    ]
    in_test = set(_test_sentences(config))
    sentences = [sentence for sentence in prose() if sentence not in in_test]
    demo = (sentence for paragraph in paragraphs("en", rng) for sentence in paragraph)
    planned_s, number = 0.0, 0
    while planned_s < config.hours * 3600:
        voice = voices[number % len(voices)]
        said: list[str] = []
        estimated_s = 0.0
        while estimated_s < MIN_RECORDING_S:
            said.append(next(demo) if rng.random() < DEMO_SENTENCE_SHARE else rng.choice(sentences))
            estimated_s += 60 * len(said[-1].split()) / voice.words_per_minute
        planned_s += estimated_s
        path = f"{voice.speaker}/{number:06d}.flac"
        yield _Script(path, voice, tuple(said), None, (config.seed, number))
        number += 1


def _test_scripts(config: VoicesConfig) -> Iterator[_Script]:
    rng = random.Random(f"test voices {config.seed}")
    for variant in TEST_VARIANTS:
        accent = rng.choice(ACCENTS)
        voice = _Voice(f"test-{variant}", f"{accent}+{variant}", rng.randint(140, 190), rng.randint(30, 70))
        for number, sentence in enumerate(_test_sentences(config)):
            yield _Script(f"{voice.speaker}/{number:03d}.flac", voice, (sentence,), number, (config.seed, number))


def _test_sentences(config: VoicesConfig) -> list[str]:
    return random.Random(f"test sentences {config.seed}").sample(prose(), config.test_sentences)


def _record(job: tuple[str, _Script]) -> _Recorded:
    root, script = job
    rng = random.Random(f"record {script.seed}")
    voice = script.voice
    pieces: list[NDArray[np.float32]] = []
    phonemes: list[Heard] = []
    words: list[Heard] = []
    for sentence in script.sentences:
        speech = speak(sentence, voice.espeak_voice, words_per_minute=voice.words_per_minute, pitch=voice.pitch)
        samples = speech.wav.astype(np.float32) / 2**15
        before_s = sum(map(len, pieces)) / SAMPLE_RATE_HZ
        phonemes += _later(speech.phonemes, before_s)
        words += _later(speech.words, before_s)
        pieces.append(soxr.resample(samples, speech.sample_rate_hz, SAMPLE_RATE_HZ))
        if script.sentence is None:
            pieces.append(np.zeros(int(rng.uniform(*PAUSE_S) * SAMPLE_RATE_HZ), np.float32))
    wav = np.concatenate(pieces)
    if script.sentence is None:
        wav = _in_a_room(wav, rng, np.random.default_rng(script.seed))
    path = Path(root) / script.path
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, SAMPLE_RATE_HZ, subtype="PCM_16")
    return _Recorded(len(wav), " ".join(script.sentences), phonemes, words)


def _later(heard: list[Heard], by_s: float) -> list[Heard]:
    return [Heard(each.name, each.start_s + by_s, each.end_s + by_s) for each in heard]


def _in_a_room(wav: NDArray[np.float32], rng: random.Random, noise: np.random.Generator) -> NDArray[np.float32]:
    if rng.random() < ROOM_SHARE:
        num_samples = int(rng.uniform(*ROOM_DECAY_S) * SAMPLE_RATE_HZ)
        echo = noise.standard_normal(num_samples) * np.exp(-5 * np.arange(num_samples) / num_samples)
        echo *= rng.uniform(*ROOM_LEVEL) / np.sqrt((echo**2).sum())
        echo[0] = 1.0
        wav = np.convolve(wav, echo.astype(np.float32))[: len(wav)]
    level = float(wav.std()) * 10 ** (-rng.uniform(*SIGNAL_TO_NOISE_DB) / 20)
    wav = wav + level * noise.standard_normal(len(wav), np.float32)
    played: NDArray[np.float32] = wav * np.float32(rng.uniform(*PEAK) / np.abs(wav).max())
    return played


def _write_metadata(root: Path, scripts: list[_Script], recorded: list[_Recorded]) -> None:
    with (root / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "language", "speaker", "text"))
        for script, result in zip(scripts, recorded, strict=True):
            rows.writerow((script.path, "en", script.voice.speaker, result.text))


def _write_phonemes(root: Path, scripts: list[_Script], recorded: list[_Recorded]) -> None:
    rows = [
        {
            "path": script.path,
            "speaker": script.voice.speaker,
            "sentence": script.sentence,
            "phonemes": [asdict(phoneme) for phoneme in result.phonemes],
            "words": [asdict(word) for word in result.words],
        }
        for script, result in zip(scripts, recorded, strict=True)
    ]
    (root / PHONEMES).write_bytes(parquet.to_bytes(pa.Table.from_pylist(rows, PHONEMES_SCHEMA)))
