"""Speed of F0 extraction and of pitch tokens, beside YAAPT and beside the encoder; and how far F0 is from the truth.

    python benchmarks/pitch.py [--quick] [--json] [--speech FOLDER]

Each uses one thread; they take turns, and the median turn counts. The encoder is that of encode.py: HuBERT Base at
25 Hz with random weights, to layer 11, with 500 units; in bfloat16, or in float32 where the processor has none. The
truth is known of speech that is made anew: the resonances of clips (linear prediction, order 18), excited by pulses at
a pitch that is set, and by noise where there is none. The pitch set is YAAPT's of the clip times 0.8, 1 or 1.25, so
that if anything YAAPT is favoured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
import transformers
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter, medfilt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.encode import OURS_16, OURS_32, SHAPE, unit_encoder
from benchmarks.machine import machine
from benchmarks.voice_activity import speech
from model.pitch.contour import Contour, extract
from model.pitch.tokenizer import load_pitch_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.pitch.model_config import Extractor

RATE_HZ, HOP = 16_000, 80
ORDER, WINDOW = 18, 400
# Above, F0 counts as wrong and not as inexact: a fifth of it, as is usual.
GROSS_CENTS = 1200 * np.log2(1.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer clips and turns: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--speech", type=Path, help="folder of FLAC files, one of each folder in it; else espeak-ng's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    num_clips, clip_s = (2, 3) if arguments.quick else (24, 6)
    clips = recorded(arguments.speech, num_clips) if arguments.speech else speech(min(num_clips, 6))
    result = measure([clip[: clip_s * RATE_HZ] for clip in clips[:num_clips]], 2 if arguments.quick else 5)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:36} {value:.4g}")


def recorded(folder: Path, num_clips: int) -> list[NDArray[np.float32]]:
    """Five seconds of one file of each folder, [S] at 16 kHz."""
    firsts = {path.parent.parent: path for path in sorted(folder.rglob("*.flac"), reverse=True)}
    clips = (soundfile.read(path, dtype="float32")[0] for path in list(firsts.values())[-num_clips:])
    return [clip[RATE_HZ : 6 * RATE_HZ] for clip in clips if len(clip) >= 2 * RATE_HZ]


def measure(clips: list[NDArray[np.float32]], num_turns: int) -> dict[str, Any]:
    tokenizer = load_pitch_tokenizer("pitch-tiny")
    with tempfile.TemporaryDirectory() as folder:
        transformers.HubertModel(transformers.HubertConfig(**SHAPE)).save_pretrained(folder)
        has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        encode = unit_encoder(folder, OURS_16 if has_bfloat16 else OURS_32)
    contestants = {
        "nccf": (clips, lambda clip: extract(clip, "nccf")),
        "pitch_tokens": (clips, tokenizer.codes_of),
        "yaapt": (clips[:3], lambda clip: extract(clip, "yaapt")),
        "encoder": (clips[:3], lambda clip: encode([clip])),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(num_turns):
        for name, (of_it, contestant) in contestants.items():
            begin = time.perf_counter()
            for clip in of_it:
                contestant(clip)
            seconds[name].append(time.perf_counter() - begin)
    speed = {
        name: sum(map(len, of_it)) / RATE_HZ / statistics.median(seconds[name])
        for name, (of_it, _) in contestants.items()
    }
    return {
        "ratios": {
            "vs_yaapt": speed["nccf"] / speed["yaapt"],
            "share_of_encoder_time": speed["encoder"] / speed["pitch_tokens"],
        },
        "figures": {
            **{f"{name}_times_real_time": value for name, value in speed.items()},
            "encoder_is_in_bfloat16": float(has_bfloat16),
            **accuracy(clips),
        },
        "machine": machine(transformers=transformers.__version__),
    }


def accuracy(clips: list[NDArray[np.float32]]) -> dict[str, float]:
    """Errors of both extractors on speech of known pitch, without noise and with noise 10 dB below it."""
    generator = np.random.default_rng(0)
    made = [made_anew(clip, generator) for clip in clips]
    found: dict[str, float] = {}
    for noise, snr_db in (("clean", None), ("10_db", 10.0)):
        heard = [wav if snr_db is None else with_noise(wav, snr_db, generator) for wav, _ in made]
        extractors: tuple[Extractor, ...] = ("nccf", "yaapt")
        for extractor in extractors:
            pairs = [(extract(wav, extractor).f0, f0) for wav, (_, f0) in zip(heard, made, strict=True)]
            ours, truth = (np.concatenate(part) for part in zip(*pairs, strict=True))
            both = (ours > 0) & (truth > 0)
            cents = 1200 * np.abs(np.log2(ours[both] / truth[both]))
            is_gross = cents > GROSS_CENTS
            prefix = f"{extractor}_{noise}"
            found[f"{prefix}_voicing_error"] = float(((ours > 0) != (truth > 0)).mean())
            found[f"{prefix}_gross_error"] = float(is_gross.mean())
            found[f"{prefix}_fine_cents"] = float(cents[~is_gross].mean())
    return found


def made_anew(clip: NDArray[np.float32], generator: np.random.Generator) -> tuple[NDArray[np.float32], Any]:
    """A clip [S] with the resonances of another, and the F0 [T] that it was made with."""
    found: Contour = extract(clip, "yaapt")
    f0 = np.where(found.f0 > 0, medfilt(found.f0, 5) * generator.choice([0.8, 1.0, 1.25]), 0.0)
    f0 = np.where(f0 > 50, np.minimum(f0, 390), 0.0)
    hertz = np.repeat(f0, HOP)
    is_pulse = np.diff(np.floor(np.cumsum(hertz / RATE_HZ)), prepend=0) > 0
    noise = generator.standard_normal(len(hertz))
    pulses = np.where(is_pulse, np.sqrt(RATE_HZ / np.maximum(hertz, 50)), 0.0)
    excitation = np.where(hertz > 0, pulses + 0.1 * noise, noise)
    flattened = np.pad(np.append(clip[0], clip[1:] - 0.95 * clip[:-1]).astype(np.float64), WINDOW)
    out, state = np.zeros(len(hertz)), np.zeros(ORDER)
    for frame in range(len(f0)):
        middle = WINDOW + frame * HOP + HOP // 2
        windowed = flattened[middle - WINDOW // 2 : middle + WINDOW // 2] * np.hanning(WINDOW)
        correlations = np.array([windowed[: WINDOW - lag] @ windowed[lag:] for lag in range(ORDER + 1)])
        correlations[0] = correlations[0] * 1.001 + 1e-9
        taps = solve_toeplitz(correlations[:-1], correlations[1:])
        gain = np.sqrt(max(1e-12, (correlations[0] - taps @ correlations[1:]) / 150))
        span = slice(frame * HOP, (frame + 1) * HOP)
        out[span], state = lfilter([gain], np.append(1, -taps), excitation[span], zi=state)
    out = lfilter([1], [1, -0.95], out)
    return (0.7 * out / np.abs(out).max()).astype(np.float32), f0


def with_noise(wav: NDArray[np.float32], snr_db: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """White noise so many dB below a clip added to it."""
    level = np.sqrt(np.mean(wav**2) / 10 ** (snr_db / 10))
    return (wav + level * generator.standard_normal(len(wav))).astype(np.float32)


if __name__ == "__main__":
    main()
