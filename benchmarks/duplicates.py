"""How many planted copies of speech `pack` finds, and how many segments it drops that are not copies.

    python benchmarks/duplicates.py [--speech DIR] [--texts 600] [--quick] [--json]

Segments are 12 s of recorded speech (files below DIR, by default ../shared/speech, if there are any) and of espeak-ng.
Each is packed together with a copy of one kind, made from the audio and tokenized with the embedded hubert-tiny-25hz
(100 units). Recall is the share of pairs in which one of the two is dropped as a copy of the other:

    mp3, mp3_low      encoded at about 64 and 32 kbit/s, and decoded
    8_khz, 11_khz     through 8 or 11.025 kHz
    half_frame        begins 20 ms later, half a frame: the shift that changes units most
    cut               the middle 60% to 90%
    shifted           begins up to half a segment later, with the same length
    shifted_mp3       shifted and mp3
    quieter           30 dB quieter, in 16 bits
    noise             white noise added, 20 dB below the speech
    faster            played 5% faster: shorter, and higher in pitch

False drops are counted among segments that are all different recordings: `--texts` texts, each read at two paces by two
voices, and the recorded speech. `*_large` repeats everything with landmarks of three units, as used for large corpora.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import soundfile
import soxr
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from benchmarks.pack import finish, write_inputs
from model.artefacts import resolve
from model.encoder.config import EncoderConfig
from pipeline.files import parquet, storage
from pipeline.packing.config import DuplicatesConfig, PackConfig, SplitConfig
from pipeline.packing.pack import pack
from pipeline.records import UNITS_SCHEMA
from pipeline.runs import CODEBOOK
from pipeline.stage import Tally
from pipeline.synthetic.espeak import synthesize
from pipeline.synthetic.sentences import paragraphs
from pipeline.units import codebook
from pipeline.units.encode import UnitEncoder, run_lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Wav = NDArray[np.float32]
    Copy = Callable[[Wav, random.Random], Wav]

RATE_HZ = 16_000
# Smallest difference in pace of two readings: espeak-ng's voices all have the same rhythm, which no two people do.
LEAST_PACE = 0.04
SEGMENT_S = 12
# Length of the audio that a segment is cut from, so that copies can begin later.
SOURCE_S = 18
VOICES = ("en-us", "en-us+f3", "en-us+m3", "en-gb-scotland", "en-us+f2", "en-us+m7")
SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"
SPEECH_FOLDERS = ("LibriSpeech", "LJSpeech", "librivox")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=SPEECH, help="recorded speech")
    parser.add_argument("--texts", type=int, default=600, help="texts for false drops")
    parser.add_argument("--quick", action="store_true", help="little speech: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(arguments.speech, 10 if arguments.quick else 60, 20 if arguments.quick else arguments.texts)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:28} {value:.6g}")


def measure(folder: Path, num_copied: int, num_texts: int) -> dict[str, Any]:
    book = codebook.load(resolve("hubert-tiny-25hz-km100"))
    encode = UnitEncoder(EncoderConfig(name="hubert", path="hubert-tiny-25hz", layer=3), book)
    texts = list(sentences(num_texts))
    rng = random.Random(0)
    sources = {
        "recorded": list(recorded(folder))[:num_copied],
        "synthesized": [
            speak(" ".join(texts[i : i + 4]), VOICES[i % len(VOICES)], rng)[: SOURCE_S * RATE_HZ]
            for i in range(num_copied)
        ],
    }
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    found: dict[tuple[str, str], list[bool]] = {}
    for origin, wavs in sources.items():
        figures[f"{origin}_segments"] = len(wavs)
        if not wavs:
            continue
        originals = encode([segment(wav) for wav in wavs])
        for kind, copy in COPIES.items():
            copies = encode([copy(wav, rng) for wav in wavs])
            for size, landmark_units in SIZES.items():
                hits = copies_found(originals, copies, book, landmark_units)
                figures[f"{origin}_{kind}_recall{size}"] = float(np.mean(hits))
                found.setdefault((kind, size), []).extend(hits)
    others = [segment(wav) for wav in sources["recorded"]]
    for number, text in enumerate(texts):
        first = speak(text, VOICES[number % len(VOICES)], rng)
        second = first
        while abs(len(second) / len(first) - 1) < LEAST_PACE:
            second = speak(text, VOICES[(number + 1 + number % 4) % len(VOICES)], rng)
        others += [segment(first), segment(second)]
    figures["segments_without_copies"] = len(others)
    encoded = dict(enumerate(encode(others)))
    for size, landmark_units in SIZES.items():
        for name, kinds in (("whole", COPIES.keys() - SHIFTED - CHANGED), ("shifted", SHIFTED)):
            ratios[f"{name}_recall{size}"] = float(np.mean([hit for kind in kinds for hit in found[kind, size]]))
        ratios[f"false_drop_share{size}"] = len(drops(encoded, book, landmark_units)) / len(others)
    return {"ratios": ratios, "figures": figures, "machine": machine()}


def recorded(folder: Path) -> Iterator[Wav]:
    for path in sorted(path for name in SPEECH_FOLDERS for path in (folder / name).rglob("*")):
        if path.suffix in (".flac", ".wav", ".mp3"):
            wav, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            wav = soxr.resample(wav.mean(axis=1), rate_hz, RATE_HZ)
            for start in range(0, len(wav) - 14 * RATE_HZ, SOURCE_S * RATE_HZ):
                yield wav[start : start + SOURCE_S * RATE_HZ]


def sentences(count: int) -> Iterator[str]:
    """Yields `count` different texts."""
    rng = random.Random(1)
    said: set[str] = set()
    for paragraph in paragraphs("en", rng):
        text = " ".join(paragraph)
        if text not in said:
            said.add(text)
            yield text
        if len(said) == count:
            return


def speak(text: str, voice: str, rng: random.Random) -> Wav:
    wav, rate_hz = synthesize(text, voice, pitch=rng.randint(20, 80), words_per_minute=rng.randint(140, 190))
    return soxr.resample(wav.astype(np.float32) / 2**15, rate_hz, RATE_HZ)


def segment(wav: Wav, start_s: float = 0.0, length_s: float = SEGMENT_S) -> Wav:
    start = round(start_s * RATE_HZ)
    return wav[start : start + round(length_s * RATE_HZ)]


def through_mp3(wav: Wav, compression: float) -> Wav:
    file = io.BytesIO()
    soundfile.write(file, wav, RATE_HZ, format="MP3", bitrate_mode="CONSTANT", compression_level=compression)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def through_rate(wav: Wav, rate_hz: int) -> Wav:
    return soxr.resample(soxr.resample(wav, RATE_HZ, rate_hz), rate_hz, RATE_HZ)


def shifted(wav: Wav, rng: random.Random) -> Wav:
    spare_s = len(wav) / RATE_HZ - SEGMENT_S
    return segment(wav, rng.uniform(0, min(SEGMENT_S / 2, max(0.0, spare_s) + 1.0)))


def with_noise(wav: Wav, rng: random.Random, signal_to_noise_db: float) -> Wav:
    rms = float(wav.std()) * 10 ** (-signal_to_noise_db / 20)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rms, len(wav))
    return (wav + noise).astype(np.float32)


def cut(wav: Wav, rng: random.Random) -> Wav:
    share = rng.uniform(0.6, 0.9)
    return segment(wav, SEGMENT_S * (1 - share) / 2, SEGMENT_S * share)


COPIES: dict[str, Copy] = {
    "mp3": lambda wav, _: through_mp3(segment(wav), 0.6),
    "mp3_low": lambda wav, _: through_mp3(segment(wav), 0.8),
    "8_khz": lambda wav, _: through_rate(segment(wav), 8000),
    "11_khz": lambda wav, _: through_rate(segment(wav), 11_025),
    "cut": cut,
    "half_frame": lambda wav, _: segment(wav, 0.02),
    "shifted": shifted,
    "shifted_mp3": lambda wav, rng: through_mp3(shifted(wav, rng), 0.6),
    "quieter": lambda wav, _: (np.rint(segment(wav) * 10 ** (-30 / 20) * 2**15) / 2**15).astype(np.float32),
    "noise": lambda wav, rng: with_noise(segment(wav), rng, 20),
    "faster": lambda wav, _: soxr.resample(segment(wav), 21, 20),
}


SHIFTED = {"half_frame", "shifted", "shifted_mp3"}
# What is not promised; see docs/shards.md.
CHANGED = {"noise", "faster"}
# Units in a landmark, by suffix of the figures.
SIZES = {"": 2, "_large": 3}


def copies_found(
    originals: list[NDArray[np.uint16]], copies: list[NDArray[np.uint16]], book: codebook.Codebook, landmark_units: int
) -> list[bool]:
    numbered = {2 * i: frames for i, frames in enumerate(originals)} | {2 * i + 1: f for i, f in enumerate(copies)}
    twins = drops(numbered, book, landmark_units)
    return [twins.get(2 * i) == 2 * i + 1 or twins.get(2 * i + 1) == 2 * i for i in range(len(originals))]


def drops(segments: dict[int, NDArray[np.uint16]], book: codebook.Codebook, landmark_units: int) -> dict[int, int]:
    """Packs segments (the unit of each frame, by number); returns the dropped ones, each with the one it duplicates."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        ids = [f"corpus/{number:06d}" for number in segments]
        write_inputs(run, ids)
        codebook.save(storage.join(run, CODEBOOK), book.centroids, {**book.facts})
        runs = [run_lengths(frames) for frames in segments.values()]
        table = pa.table(
            {
                "segment_id": [f"{id}#00000000-00012000" for id in ids],
                "recording_id": ids,
                "start_s": [0.0] * len(ids),
                "end_s": [float(SEGMENT_S)] * len(ids),
                "num_frames": [len(frames) for frames in segments.values()],
                "units": [units for units, _ in runs],
                "durations": [durations for _, durations in runs],
                "drop_reason": [None] * len(ids),
                "drop_detail": [None] * len(ids),
            },
            schema=UNITS_SCHEMA,
        )
        parquet.write(storage.join(run, "units", "part-corpus-0000000.parquet"), table)
        total = Tally(len(ids), len(ids) * SEGMENT_S / 3600)
        finish(run, "units", total, lambda _: None, num_units=sum(len(units) for units, _ in runs))
        config = PackConfig(
            SplitConfig(validation=0, test=0), duplicates=DuplicatesConfig(landmark_units=landmark_units)
        )
        pack(run, config, lambda *_: None)
        rows = parquet.read(storage.join(run, "shards", "dropped.parquet")).to_pylist()
    number_of = {f"{id}#00000000-00012000": number for id, number in zip(ids, segments, strict=True)}
    return {
        number_of[row["id"]]: number_of[
            row["detail"].removeprefix("same speech as ").removeprefix("same units as ").partition(",")[0]
        ]
        for row in rows
        if row["reason"] in ("duplicate", "near_duplicate")
    }


if __name__ == "__main__":
    main()
