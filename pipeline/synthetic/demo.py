"""A small speech corpus of our own making, so that everything can be tried without a download.

    FOLDER/<speaker>/<speaker>-<number>.{flac,wav,mp3}
    FOLDER/metadata.csv     path, language, speaker, split, text
    FOLDER/aligned_text.jsonl   a line a recording: file_name, text, aligned_text (words with their times, as slamkit
                                has them)
    FOLDER/corpus.json      the configuration it was made with, and what it holds

It is as untidy as a real corpus: the sample rates and formats differ, most recordings do not say their language, some
are not English, one recording runs for minutes, and one file was cut off in its header. Files are FLAC, WAV and MP3 and
not Ogg, because libsndfile gives each Ogg stream a random serial number.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from pipeline.corpora.alignments.word_json import ALIGNED_TEXT
from pipeline.synthetic.config import ENGLISH_VOICES, OTHER_VOICES, DemoCorpusConfig, Voice
from pipeline.synthetic.corpus_folder import make_corpus
from pipeline.synthetic.espeak import speak
from pipeline.synthetic.sentences import paragraphs
from pipeline.synthetic.word_times import word_times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.corpora.alignments.labelled import Labelled
    from pipeline.progress import ReportProgress

METADATA = "metadata.csv"
# Raise it when the same configuration starts to give other bytes, so that an old corpus is not mistaken for a new one.
EDITION = 1


LONG_SHARE = 0.22  # of all speech: the one long recording
OTHER_SHARE = 0.08  # of all speech: languages other than English, together
MEAN_RECORDING_S = 18.0
MEAN_OTHER_RECORDING_S = 12.0
MIN_RECORDING_S = 5.0
LANGUAGE_SAID_EVERY = 4  # metadata.csv gives the language of one recording in this many

SENTENCE_PAUSE_S = (0.2, 0.6)
PARAGRAPH_PAUSE_S = (0.9, 1.3)
TYPICAL_SENTENCE_S = 4.5

# Used in turn. espeak-ng itself speaks at 22.05 kHz.
FORMATS = ((".flac", 16_000), (".mp3", 22_050), (".flac", 22_050), (".wav", 44_100), (".flac", 16_000))
NUM_DAMAGED_BYTES = 30  # a FLAC header has 42


@dataclass(frozen=True)
class DemoCorpusSummary:
    """What a demo corpus holds; the damaged file is not counted."""

    num_recordings: int
    num_speakers: int
    duration_s: float
    duration_s_by_language: dict[str, float]


@dataclass(frozen=True)
class _Script:
    """A recording to be made: who speaks, about how long, and what metadata.csv says of the language."""

    path: str
    voice: Voice
    target_s: float
    sample_rate_hz: int
    language_said: str


@dataclass(frozen=True)
class _Recorded:
    """What a recording says, its words with their times, and its length."""

    text: str
    words: list[Labelled]
    duration_s: float


def write_demo_corpus(
    folder: Path, config: DemoCorpusConfig, report: ReportProgress | None = None
) -> DemoCorpusSummary:
    """Makes the corpus in `folder` unless it is there already; one configuration always gives the same bytes.

    It is made in a hidden folder beside `folder`, and renamed when complete.

    Raises:
        TwistError: the folder holds a corpus of another configuration, or something else.
    """
    summary = make_corpus(
        folder, "demo corpus", EDITION, asdict(config), lambda root: asdict(_write(root, config, report))
    )
    return DemoCorpusSummary(**summary)


def _write(folder: Path, config: DemoCorpusConfig, report: ReportProgress | None) -> DemoCorpusSummary:
    rng = random.Random(config.seed)
    texts = {voice.language: paragraphs(voice.language, rng) for voice in (*ENGLISH_VOICES, *OTHER_VOICES)}
    scripts = _plan(config, rng)
    rows: list[dict[str, str]] = []
    lines: list[dict[str, object]] = []
    duration_s: defaultdict[str, float] = defaultdict(float)
    for number, script in enumerate(scripts, start=1):
        recorded = _record(folder, script, texts[script.voice.language], rng)
        rows.append(_row(script, recorded.text))
        lines.append(_aligned_text(script, recorded))
        duration_s[script.voice.language] += recorded.duration_s
        if report:
            report(number, len(scripts), "recordings")
    damaged = _Script("damaged/damaged.flac", ENGLISH_VOICES[1], MIN_RECORDING_S, 16_000, "")
    rows.append(_row(damaged, _record(folder, damaged, texts["en"], rng).text))
    path = folder / damaged.path
    path.write_bytes(path.read_bytes()[:NUM_DAMAGED_BYTES])
    with (folder / METADATA).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["path", "language", "speaker", "split", "text"], lineterminator="\n")
        table.writeheader()
        table.writerows(sorted(rows, key=lambda row: row["path"]))
    with (folder / ALIGNED_TEXT).open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    return DemoCorpusSummary(
        num_recordings=len(scripts),
        num_speakers=len({script.voice.speaker for script in scripts}),
        duration_s=sum(duration_s.values()),
        duration_s_by_language=dict(duration_s),
    )


def _plan(config: DemoCorpusConfig, rng: random.Random) -> list[_Script]:
    total_s = config.minutes * 60
    reader, *speakers = ENGLISH_VOICES[: config.num_english_voices]
    english_s = total_s * (1 - LONG_SHARE - OTHER_SHARE)
    num_english = max(len(speakers), round(english_s / MEAN_RECORDING_S))
    weights = [rng.uniform(0.3, 1.7) for _ in range(num_english)]
    casts = [(reader, total_s * LONG_SHARE)]
    casts += [
        (speakers[number % len(speakers)], english_s * weight / sum(weights)) for number, weight in enumerate(weights)
    ]
    for voice in OTHER_VOICES:
        share_s = total_s * OTHER_SHARE / len(OTHER_VOICES)
        num_other = max(1, round(share_s / MEAN_OTHER_RECORDING_S))
        casts += [(voice, share_s / num_other)] * num_other

    scripts = []
    takes: Counter[str] = Counter()
    for number, (voice, target_s) in enumerate(casts):
        takes[voice.speaker] += 1
        suffix, sample_rate_hz = FORMATS[number % len(FORMATS)]
        path = f"{voice.speaker}/{voice.speaker}-{takes[voice.speaker]:03d}{suffix}"
        language_said = voice.language if number % LANGUAGE_SAID_EVERY == 0 else ""
        scripts.append(_Script(path, voice, target_s, sample_rate_hz, language_said))
    return scripts


def _record(folder: Path, script: _Script, texts: Iterator[list[str]], rng: random.Random) -> _Recorded:
    """Speaks until the recording is about as long as planned, and writes it."""
    voice = script.voice
    enough_s = max(script.target_s - TYPICAL_SENTENCE_S / 2, MIN_RECORDING_S)
    sentences: list[str] = []
    pieces: list[NDArray[np.int16]] = []
    words: list[Labelled] = []
    spoken_s = 0.0
    for sentence, pause_s in _with_pauses(texts, rng):
        speech = speak(sentence, voice.espeak_voice, words_per_minute=voice.words_per_minute, pitch=voice.pitch)
        rate_hz = speech.sample_rate_hz
        sentences.append(sentence)
        began_s = sum(map(len, pieces)) / rate_hz
        words += [(word, began_s + start_s, began_s + end_s) for word, start_s, end_s in word_times(sentence, speech)]
        pieces += [speech.wav, np.zeros(round(pause_s * rate_hz), np.int16)]
        spoken_s += len(speech.wav) / rate_hz + pause_s
        if spoken_s >= enough_s:
            break
    recording = _resample(np.concatenate(pieces), rate_hz, script.sample_rate_hz)
    path = folder / script.path
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, recording, script.sample_rate_hz)
    return _Recorded(" ".join(sentences), words, len(recording) / script.sample_rate_hz)


def _resample(wav: NDArray[np.int16], rate_hz: int, new_rate_hz: int) -> NDArray[np.int16]:
    # In float32, because soxr dithers int16, and not always in the same way.
    resampled: NDArray[np.float32] = soxr.resample(wav.astype(np.float32), rate_hz, new_rate_hz)
    int16 = np.iinfo(np.int16)
    return np.rint(resampled).clip(int16.min, int16.max).astype(np.int16)


def _with_pauses(texts: Iterator[list[str]], rng: random.Random) -> Iterator[tuple[str, float]]:
    """Sentences of endless paragraphs, each with the length of the pause after it in s."""
    for paragraph in texts:
        for sentence in paragraph[:-1]:
            yield sentence, rng.uniform(*SENTENCE_PAUSE_S)
        yield paragraph[-1], rng.uniform(*PARAGRAPH_PAUSE_S)


def _row(script: _Script, text: str) -> dict[str, str]:
    return {
        "path": script.path,
        "language": script.language_said,
        "speaker": script.voice.speaker,
        "split": "",
        "text": text,
    }


def _aligned_text(script: _Script, recorded: _Recorded) -> dict[str, object]:
    # slamkit puts words together as they are, so that each brings the blank before it.
    aligned = [[f" {word}", round(start_s, 4), round(end_s, 4)] for word, start_s, end_s in recorded.words]
    return {"file_name": script.path, "text": recorded.text, "aligned_text": aligned}
