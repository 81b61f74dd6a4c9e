"""How well a vocoder speaks its units: on recordings, or on sentences by a synthesized voice that it was trained on.

    python benchmarks/vocoder_quality.py --recordings FOLDER [--vocoder PATH] [--sentences N] [--quick] [--json]
    python benchmarks/vocoder_quality.py --speech FOLDER [--vocoder PATH] [--sentences N] [--quick] [--json]

FOLDER holds recordings, such as LibriSpeech's test-other; or the training speech that `twist make-speech voice` made,
in whose voice sentences are then said that it lacks. Each is tokenized with the embedded tokenizer, its units are
turned into audio, and that audio is tokenized again:

    mel_distance            distance of log-mel spectrograms: recording, and audio made with the recorded durations
    unit_agreement          share of frames with the same unit in both
    unit_distance           edit distance of de-duplicated units over the longer one's length (recorded durations)
    unit_distance_predicted the same with durations predicted by the vocoder
    duration_ratio          length of the audio with predicted durations over the recording's length

For comparison: `unit_agreement_shifted` is between the recording and itself 20 ms (half a frame) later, about as well
as the tokenizer agrees with itself; `unit_agreement_other` is with another sentence.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.artefacts import resolve
from model.encoder.config import EncoderConfig
from model.vocoder.checkpoint import load_melody, load_vocoder
from model.vocoder.mel import LogMel
from model.vocoder.mel_config import MelConfig
from model.vocoder.synthesizer import Synthesizer, Utterance
from pipeline.evaluation.units.same_words import unit_distance
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.synthetic.config import VoiceConfig
from pipeline.synthetic.espeak import synthesize
from pipeline.synthetic.many_voices import prose
from pipeline.synthetic.one_voice import PEAK
from pipeline.units import codebook
from pipeline.units.encode import UnitEncoder, run_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENIZER = EncoderConfig(name="hubert", path="hubert-tiny-25hz", layer=3, device="cpu")
CODEBOOK = "hubert-tiny-25hz-km100"
SHIFT_SAMPLES = 320
LONGEST_S = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    heard = parser.add_mutually_exclusive_group(required=True)
    heard.add_argument("--recordings", type=Path, help="a folder of recordings at 16 kHz, FLAC or WAV")
    heard.add_argument("--speech", type=Path, help="the folder of synthesized speech that the vocoder was trained on")
    parser.add_argument("--vocoder", default="hifigan-tiny-25hz", help="a vocoder of the embedded tokenizer's units")
    parser.add_argument("--sentences", type=int, default=60, help="how many are said, at most")
    parser.add_argument("--quick", action="store_true", help="fewer sentences: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    num_sentences = 8 if arguments.quick else arguments.sentences
    if arguments.recordings:
        wavs = recorded(arguments.recordings, num_sentences)
    else:
        wavs = unheard(arguments.speech, num_sentences)
    result = measure(wavs, arguments.vocoder)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result["figures"].items():
        print(f"{name:24} {value:.4g}")


def recorded(folder: Path, num_recordings: int) -> list[NDArray[np.float32]]:
    """Some of the recordings in a folder, of up to LONGEST_S: wav [S] at 16 kHz each."""
    paths = sorted(path for suffix in ("flac", "wav") for path in folder.rglob(f"*.{suffix}"))
    assert paths, f"{folder} holds no .flac and no .wav"
    infos = [(path, soundfile.info(path)) for path in random.Random(0).sample(paths, len(paths))]
    chosen = [path for path, info in infos if info.samplerate == SAMPLE_RATE_HZ and info.duration <= LONGEST_S]
    return [soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1) for path in chosen[:num_recordings]]


def unheard(speech: Path, num_sentences: int) -> list[NDArray[np.float32]]:
    """Sentences that are not in the folder, spoken as those in it are: wav [S] at 16 kHz each."""
    config = VoiceConfig(**json.loads((speech / "corpus.json").read_text())["config"])
    with (speech / "metadata.csv").open(newline="") as file:
        said = " ".join(row["text"] for row in csv.DictReader(file))
    heard = set(re.split(r"(?<=[.!?])\s+(?=[A-Z])", said))
    left = [sentence for sentence in prose() if sentence not in heard]
    assert left, f"{speech} holds every sentence there is"
    wavs = []
    for sentence in random.Random(0).sample(left, min(num_sentences, len(left))):
        samples, rate_hz = synthesize(
            sentence, config.voice, words_per_minute=config.words_per_minute, pitch=config.pitch
        )
        wav = soxr.resample(samples.astype(np.float32) / 2**15, rate_hz, SAMPLE_RATE_HZ)
        wavs.append(wav * np.float32(PEAK / np.abs(wav).max()))
    return wavs


def measure(wavs: list[NDArray[np.float32]], vocoder_path: str) -> dict[str, Any]:
    """Computes all measures over these wavs [S]."""
    tokenizer = UnitEncoder(TOKENIZER, codebook.load(resolve(CODEBOOK)))
    folder = Path(resolve(vocoder_path))
    vocoder, _ = load_vocoder(folder)
    synthesizer = Synthesizer(vocoder.for_inference(torch.float32, torch.device("cpu")), melody=load_melody(folder))
    mel = LogMel(MelConfig())
    frames = tokenizer(wavs)
    pairs = [run_lengths(each) for each in frames]
    made = synthesizer([Utterance(*pair) for pair in pairs])
    predicted = synthesizer([Utterance(units) for units, _ in pairs])
    # The encoder makes no frame of a clip's last samples, so a little silence is appended.
    again, again_predicted = (
        [run_lengths(units) for units in tokenizer([np.pad(wav, (0, 80)) for wav in each])]
        for each in (made, predicted)
    )
    shifted = tokenizer([wav[SHIFT_SAMPLES:] for wav in wavs])
    distances = [
        (mel(torch.from_numpy(wav[: len(other)])[None]) - mel(torch.from_numpy(other[: len(wav)])[None])).abs().mean()
        for wav, other in zip(wavs, made, strict=True)
    ]
    return {
        "ratios": {},
        "figures": {
            "sentences": len(wavs),
            "seconds": sum(map(len, wavs)) / SAMPLE_RATE_HZ,
            "mel_distance": float(np.mean(distances)),
            "unit_agreement": agreement(frames, [np.repeat(*each) for each in again]),
            "unit_agreement_shifted": agreement(frames, shifted),
            "unit_agreement_other": agreement(frames, [*frames[1:], frames[0]]),
            "unit_distance": distance(pairs, again),
            "unit_distance_predicted": distance(pairs, again_predicted),
            "duration_ratio": sum(map(len, predicted)) / sum(map(len, made)),
        },
        "machine": machine(),
    }


def agreement(first: list[NDArray[np.uint16]], second: list[NDArray[np.uint16]]) -> float:
    """Share of frames with the same unit, over the frames that both have."""
    same = [a[: len(b)] == b[: len(a)] for a, b in zip(first, second, strict=True)]
    return float(np.concatenate(same).mean())


def distance(first: list[tuple[Any, Any]], second: list[tuple[Any, Any]]) -> float:
    """Mean edit distance of de-duplicated units."""
    return float(np.mean([unit_distance(a[0], b[0]) for a, b in zip(first, second, strict=True)]))


if __name__ == "__main__":
    main()
