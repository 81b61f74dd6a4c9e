"""Speed and quality of fitting a codebook, compared with scikit-learn under the settings of HuBERT's authors.

    python benchmarks/codebook.py [--quick] [--json]

500,000 frames x 768 values, 500 units. The frames are speech of many synthesized voices through hubert-tiny-25hz, with
the outputs of its three layers concatenated (3 x 256 values). Both contestants get the same frames and are measured on
the same held-out frames.

scikit-learn's MiniBatchKMeans gets the settings of fairseq's examples/hubert/simple_kmeans/learn_kmeans.py: k-means++,
n_init 20, batches of 10,000, no tolerance, stop after 100 batches without improvement, no reassignment.

The last figure is the peak memory of a process that fits 1,000,000 frames x 768 (200,000 with --quick).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
import soundfile
import torch
from sklearn.cluster import MiniBatchKMeans

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.artefacts import resolve
from model.encoder.hubert_checkpoint import load_hubert
from pipeline.synthetic.config import VoicesConfig
from pipeline.synthetic.many_voices import write_voices_corpus
from pipeline.units import kmeans
from pipeline.units.config import CodebookConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

HUBERT = "hubert-tiny-25hz"
LAYERS = (2, 3, 4)
FRAMES_PER_S = 25
FEATURE_DIM = 768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the frames and of the units: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    num_frames, num_units = (20_000, 50) if arguments.quick else (500_000, 500)
    result = measure(speech_frames(num_frames), num_units, num_frames_for_memory=2 * num_frames)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:24} {value:.6g}")


def speech_frames(num_frames: int) -> NDArray[np.float32]:
    """Frames [N, 768] of speech, in random order."""
    model, _, _ = load_hubert(Path(resolve(HUBERT)))
    model.for_inference(torch.float32, torch.device("cpu"))
    frames = np.empty((num_frames, FEATURE_DIM), np.float32)
    rows = np.random.default_rng(0).permutation(num_frames)
    filled = 0
    with tempfile.TemporaryDirectory() as folder:
        hours = 1.3 * num_frames / FRAMES_PER_S / 3600 + 0.1
        write_voices_corpus(Path(folder), VoicesConfig(hours=hours, test_sentences=2))
        for path in sorted((Path(folder) / "train").rglob("*.flac")):
            wav, _ = soundfile.read(path, dtype="float32")
            features = layers_of(model, torch.from_numpy(wav))[: num_frames - filled]
            frames[rows[filled : filled + len(features)]] = features
            filled += len(features)
            if filled == num_frames:
                return frames
    raise AssertionError(f"the speech held only {filled} frames")


@torch.inference_mode()
def layers_of(model: Any, wav: torch.Tensor) -> NDArray[np.float32]:
    """Features [F, 768] of wav [S]: the outputs of `LAYERS`, concatenated."""
    return np.asarray(torch.cat([model(wav[None], layer)[0] for layer in LAYERS], dim=1))


def measure(frames: NDArray[np.float32], num_units: int, num_frames_for_memory: int) -> dict[str, Any]:
    """Measures seconds and held-out inertia of both, and their ratios."""
    num_held_out = int(len(frames) * kmeans.HELD_OUT_FRACTION)
    begin = time.perf_counter()
    _, report = kmeans.fit(frames, num_units, seed=0, num_steps=CodebookConfig.num_iterations)
    ours_s = time.perf_counter() - begin
    begin = time.perf_counter()
    theirs = MiniBatchKMeans(
        num_units,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        tol=0.0,
        max_no_improvement=100,
        n_init=20,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=0,
    ).fit(frames[num_held_out:])
    theirs_s = time.perf_counter() - begin
    centroids = np.ascontiguousarray(theirs.cluster_centers_, np.float32)
    theirs_inertia = float(kmeans.search(centroids, frames[:num_held_out])[0].mean())
    assert report.held_out_inertia is not None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak_gib = pool.apply(peak_memory_gib, (num_frames_for_memory, num_units))
    return {
        "ratios": {
            "vs_sklearn": theirs_s / ours_s,
            "inertia_vs_sklearn": report.held_out_inertia / theirs_inertia,
        },
        "figures": {
            "frames": len(frames),
            "units": num_units,
            "seconds": ours_s,
            "sklearn_seconds": theirs_s,
            "held_out_inertia": report.held_out_inertia,
            "sklearn_held_out_inertia": theirs_inertia,
            "unit_perplexity": report.unit_perplexity,
            "empty_units": report.empty_units,
            "memory_frames": num_frames_for_memory,
            "peak_memory_gib": peak_gib,
        },
        "machine": machine(**{"scikit-learn": sklearn.__version__}),
    }


def peak_memory_gib(num_frames: int, num_units: int) -> float:
    """Fits `num_frames` x 768 features; returns the peak memory of this process."""
    frames = np.random.default_rng(0).standard_normal((num_frames, FEATURE_DIM), np.float32)
    kmeans.fit(frames, num_units, seed=0, num_steps=1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
