"""How much units reveal of recorded speech, and how far they are the same for another speaker, level, noise or codec.

    python benchmarks/recorded_units.py AUDIO ALIGNMENTS [--tokenizer ENCODER:LAYER:CODEBOOK ...] [--words CSV]
                                        [--quick] [--json]

A tokenizer is a HuBERT, its layer and a codebook, or `mfcc::CODEBOOK`. AUDIO lies as LibriSpeech's does, a folder for
each speaker, and ALIGNMENTS are TextGrids in a tree of the same shape with tiers `words` and `phones`, as
benchmarks/phone_alignments.py and the Montreal Forced Aligner write them. The CSV names clips of single words,
`path,word,speaker`. pipeline/evaluation (purity.py, abx.py) defines the measures:

    pnmi, phone_purity          over frames; a pause counts as a phone
    abx_phones                  error of phones by two speakers, in any context
    abx_words, abx_features     error of words of at least 0.25 s by two speakers, by units and by features
    abx_clips, abx_clip_features  the same of the CSV's clips
    same_*                      share of frames whose unit is the same at -40 dB, after MP3, with white noise
    units_per_s                 without repeats
    unit_perplexity             2 to the power of the units' entropy; the number of units where all are as frequent

Lower is better for abx. Ratios are to the first tokenizer.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.artefacts import resolve
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from pipeline.corpora.alignments.textgrid import read_textgrid
from pipeline.evaluation.units.abx import abx, abx_error
from pipeline.evaluation.units.alignments import Interval, intervals_of, labels_at
from pipeline.evaluation.units.phone_tokens import PhoneToken, cut, tokens_of
from pipeline.evaluation.units.purity import agreement
from pipeline.units import codebook
from pipeline.units.encode import run_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Wav = NDArray[np.float32]

RATE_HZ = 16_000
# Shorter words have too few units to be told apart.
MIN_WORD_S = 0.25
NOISES_DB = (20, 10)
MOST_TOKENS = 3  # of one word by one speaker


@dataclass(frozen=True)
class Recording:
    """A recording whose words and phones are known."""

    name: str
    speaker: str
    wav: Wav
    phones: list[Interval]
    words: list[Interval]


class Tokenizer:
    """An encoder and its codebook, by `ENCODER:LAYER:CODEBOOK`, or `mfcc::CODEBOOK`."""

    def __init__(self, name: str) -> None:
        path, layer, book = name.split(":")
        hubert = {"name": "hubert", "path": path, "layer": int(layer)} if path != "mfcc" else {}
        self.encoder = load_encoder(EncoderConfig(**hubert, device="cpu"))
        self._assign = codebook.Assigner(codebook.load(resolve(book)).centroids, self.encoder.device)
        self.rate_hz = self.encoder.sample_rate_hz / self.encoder.hop_samples

    def features(self, wav: Wav) -> torch.Tensor:
        """wav [S] -> [F, D]"""
        return self.encoder.encode([torch.from_numpy(wav)])[0]

    def units(self, features: torch.Tensor) -> NDArray[np.uint16]:
        """[F, D] -> [F]"""
        return self._assign(features).numpy().astype(np.uint16)

    def times_s(self, num_frames: int) -> NDArray[np.float64]:
        """The middle of each frame, [F]."""
        samples = np.arange(num_frames) * self.encoder.hop_samples + self.encoder.min_samples / 2
        return samples / self.encoder.sample_rate_hz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("alignments", type=Path)
    parser.add_argument("--tokenizer", nargs="*", default=["hubert-tiny-25hz:3:hubert-tiny-25hz-km100"])
    parser.add_argument("--words", type=Path, help="a CSV of clips of single words: path, word, speaker")
    parser.add_argument("--quick", action="store_true", help="two recordings of each speaker: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recordings = read_recordings(given.audio, given.alignments, 2 if given.quick else None)
    clips = read_clips(given.words) if given.words else []
    figures = {name: quality(Tokenizer(name), recordings, clips) for name in given.tokenizer}
    first = figures[given.tokenizer[0]]
    ratios = {
        f"{measure} {name}": value / first[measure]
        for name, of_one in list(figures.items())[1:]
        for measure, value in of_one.items()
    }
    minutes = sum(len(one.wav) for one in recordings) / RATE_HZ / 60
    result = {"ratios": ratios, "figures": figures, "minutes": minutes, "machine": machine()}
    print(json.dumps(result) if given.json else as_table(figures, len(recordings), minutes))


def read_recordings(audio: Path, alignments: Path, most_per_speaker: int | None) -> list[Recording]:
    """The recordings that have an alignment, in order."""
    recordings: list[Recording] = []
    for path in sorted(audio.rglob("*.flac")):
        name, speaker = path.relative_to(audio).with_suffix(""), path.relative_to(audio).parts[0]
        aligned = alignments / name.with_suffix(".TextGrid")
        count = sum(one.speaker == speaker for one in recordings)
        if not aligned.exists() or count == most_per_speaker:
            continue
        tiers = read_textgrid(aligned.read_text())
        wav = soundfile.read(path, dtype="float32")[0]
        phones, words = intervals_of(tiers["phones"]), intervals_of(tiers["words"])
        recordings.append(Recording(str(name), speaker, wav, phones, words))
    if not recordings:
        sys.exit(f"{alignments} has no TextGrid of a recording in {audio}")
    return recordings


def read_clips(table: Path) -> list[tuple[PhoneToken, Wav]]:
    """Clips of single words, each as one token."""
    clips = []
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            wav = soundfile.read(table.parent / row["path"], dtype="float32")[0]
            token = PhoneToken(row["path"], 0.0, len(wav) / RATE_HZ, row["word"], "", "", row["speaker"])
            clips.append((token, wav))
    return clips


def quality(tokenizer: Tokenizer, recordings: list[Recording], clips: list[tuple[PhoneToken, Wav]]) -> dict[str, float]:
    """The measures of one tokenizer."""
    features = {one.name: tokenizer.features(one.wav) for one in recordings}
    units = {name: tokenizer.units(of_file) for name, of_file in features.items()}
    of_frames: list[tuple[int, str]] = []
    for one in recordings:
        labels = labels_at(tokenizer.times_s(len(units[one.name])), one.phones)
        of_frames += [(int(unit), label or "SIL") for unit, label in zip(units[one.name], labels, strict=True)]
    agrees = agreement(np.array([unit for unit, _ in of_frames]), np.array([label for _, label in of_frames]))
    phones = [token for one in recordings for token in tokens_of(one.name, one.phones, one.speaker, "phoneme")]
    words = [
        PhoneToken(one.name, word.start_s, word.end_s, word.label, "", "", one.speaker)
        for one in recordings
        for word in one.words
        if word.end_s - word.start_s >= MIN_WORD_S
    ]
    share = np.bincount([unit for unit, _ in of_frames]) / len(of_frames)
    share = share[share > 0]
    measured = {
        "pnmi": agrees.normalized_information,
        "phone_purity": agrees.purity,
        "abx_phones": _across(tokenizer, phones, units),
        "abx_words": _across(tokenizer, words, units),
        "abx_features": _across(tokenizer, words, {name: of_file.numpy() for name, of_file in features.items()}),
        **_of_clips(tokenizer, clips),
        **_stability(tokenizer, recordings, units),
        "units_per_s": sum(len(run_lengths(one)[0]) for one in units.values())
        * tokenizer.rate_hz
        / sum(map(len, units.values())),
        "unit_perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }
    return {name: float(value) for name, value in measured.items()}


def _of_clips(tokenizer: Tokenizer, clips: list[tuple[PhoneToken, Wav]]) -> dict[str, float]:
    if not clips:
        return {}
    features = {token.file: tokenizer.features(wav) for token, wav in clips}
    tokens = [token for token, _ in clips]
    return {
        "abx_clips": _across(tokenizer, tokens, {name: tokenizer.units(one) for name, one in features.items()}),
        "abx_clip_features": _across(tokenizer, tokens, {name: one.numpy() for name, one in features.items()}),
    }


def _across(tokenizer: Tokenizer, tokens: list[PhoneToken], frames: dict[str, NDArray[Any]]) -> float:
    """The error of ABX across speakers, in any context."""
    with_frames = cut(tokens, frames, tokenizer.rate_hz, "inclusive")
    return abx_error(abx(with_frames, speakers="across", contexts="any", max_tokens=MOST_TOKENS))


def _stability(tokenizer: Tokenizer, recordings: list[Recording], units: dict[str, Any]) -> dict[str, float]:
    """How often a frame's unit is the same when the recording is changed."""
    noise = np.random.default_rng(0)
    changes = {
        "same_at_-40_db": lambda wav: wav * 0.01,
        "same_after_mp3": _through_mp3,
        **{f"same_with_{db}_db_noise": lambda wav, db=db: _noisy(wav, db, noise) for db in NOISES_DB},
    }
    return {
        name: float(
            np.concatenate(
                [
                    tokenizer.units(tokenizer.features(change(one.wav).astype(np.float32))) == units[one.name]
                    for one in recordings
                ]
            ).mean()
        )
        for name, change in changes.items()
    }


def _noisy(wav: Wav, signal_to_noise_db: int, generator: np.random.Generator) -> NDArray[np.float64]:
    return wav + wav.std() * 10 ** (-signal_to_noise_db / 20) * generator.standard_normal(len(wav))


def _through_mp3(wav: Wav) -> Wav:
    """Encoded and decoded, at the same place: encoders add a delay."""
    file = io.BytesIO()
    soundfile.write(file, wav, RATE_HZ, format="MP3")
    file.seek(0)
    heard = soundfile.read(file, dtype="float32")[0]
    spectrum = np.fft.rfft(wav, 2 * len(wav)).conj() * np.fft.rfft(heard[: len(wav)], 2 * len(wav))
    delay = int(np.fft.irfft(spectrum).argmax())
    delay = delay if delay < len(wav) else delay - 2 * len(wav)
    heard = heard[delay:] if delay >= 0 else np.pad(heard, (-delay, 0))
    return np.pad(heard, (0, max(0, len(wav) - len(heard))))[: len(wav)]


def as_table(figures: dict[str, dict[str, float]], num_recordings: int, minutes: float) -> str:
    """A line for each measure."""
    names = list(figures)
    lines = [f"{num_recordings} recordings, {minutes:.1f} minutes", *names]
    lines += [
        measure.ljust(26) + "".join(f"{figures[name][measure]:10.3f}" for name in names)
        for measure in figures[names[0]]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
