"""Speed of turning clips into units: this encoder and transformers' HubertModel, in one process, with random weights.

    python benchmarks/encode.py [--quick] [--json] [--threads N]

The model has the size of TWIST's (HuBERT Base with an eighth convolution, 25 Hz, layer 11, 500 units); speed does not
depend on the weights. The contestants take turns on the same clips, and each one's median turn counts, because the
machine may have other work. The default is one thread, since the pipeline runs a one-threaded worker per core. On a GPU
there is 20 times as much audio, about a chunk of the pipeline, and one warm-up turn.

1. transformers, float32, as slamkit uses it: clips sorted by length, batches of 8 padded to the longest, no mask, all
   hidden states. A padded clip gets other features than alone, and assignment to units is not timed.
2. The same under bfloat16 autocast.
3. This encoder in float32 and in bfloat16, from samples to units.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.units.codebook import Codebook
from pipeline.units.encode import UnitEncoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LAYER = 11
NUM_UNITS = 500
PADDED_BATCH = 8
TIMES_THE_CLIPS_ON_GPU = 20
SHAPE: dict[str, Any] = {
    "conv_dim": [512] * 8,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    "conv_pos_batch_norm": True,
}
TRANSFORMERS_32, TRANSFORMERS_16 = "transformers float32", "transformers bfloat16"
OURS_32, OURS_16 = "float32", "bfloat16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less audio and fewer turns: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--threads", type=int, default=1, help="threads that each contestant may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    num_clips, num_turns = (4, 2) if arguments.quick else (10, 5)
    if torch.cuda.is_available():
        num_clips *= TIMES_THE_CLIPS_ON_GPU
    result = measure(make_clips(num_clips), num_turns)
    if arguments.json:
        print(json.dumps(as_json(result)))
    else:
        print_report(result)


def make_clips(num_clips: int) -> list[NDArray[np.float32]]:
    """Clips of noise with the lengths of segments of read speech: 2 to 25 s, around 10 s."""
    generator = np.random.default_rng(0)
    lengths_s = np.clip(generator.lognormal(np.log(10), 0.6, num_clips), 2, 25)
    return [(0.1 * generator.standard_normal(int(s * SAMPLE_RATE_HZ))).astype(np.float32) for s in lengths_s]


def measure(clips: list[NDArray[np.float32]], num_turns: int) -> dict[str, Any]:
    """Measures hours of audio per hour for each contestant, and their ratios."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    audio_s = sum(map(len, clips)) / SAMPLE_RATE_HZ
    contestants = make_contestants(clips, device)
    rates: dict[str, list[float]] = {dtype: [] for dtype in (OURS_32, OURS_16)}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    if device.type == "cuda":
        for encode in contestants.values():
            encode()
    for _ in range(num_turns):
        for name, encode in contestants.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            encode()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begin)
        for dtype, measured in rates.items():
            measured.append(matmul_flops_per_s(getattr(torch, dtype), device))
    speed = {name: audio_s / statistics.median(times) for name, times in seconds.items()}
    matmul = {dtype: statistics.median(measured) for dtype, measured in rates.items()}
    per_audio_s = flops(clips) / audio_s
    return {
        "vs_transformers_float32": speed[OURS_16] / speed[TRANSFORMERS_32],
        "vs_transformers_bfloat16": speed[OURS_16] / speed[TRANSFORMERS_16],
        "float32_vs_transformers_float32": speed[OURS_32] / speed[TRANSFORMERS_32],
        "share_of_matmul_rate": {dtype: speed[dtype] * per_audio_s / matmul[dtype] for dtype in rates},
        "hours_per_hour": speed,
        "matmul_gflops_per_s": {dtype: rate / 1e9 for dtype, rate in matmul.items()},
        "gflop_per_audio_s": per_audio_s / 1e9,
        "clips": len(clips),
        "audio_s": audio_s,
        "turns": num_turns,
        "machine": machine(device, transformers=transformers.__version__),
    }


def make_contestants(clips: list[NDArray[np.float32]], device: torch.device) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    reference = transformers.HubertModel(transformers.HubertConfig(**SHAPE)).eval().to(device)
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        ours_32 = unit_encoder(folder, OURS_32)
        ours_16 = unit_encoder(folder, OURS_16)
    by_length = sorted((torch.from_numpy(clip) for clip in clips), key=len)
    batches = [by_length[start : start + PADDED_BATCH] for start in range(0, len(by_length), PADDED_BATCH)]
    padded = [torch.nn.utils.rnn.pad_sequence(batch, batch_first=True) for batch in batches]

    @torch.inference_mode()
    def transformers_32() -> None:
        for batch in padded:
            reference(batch.to(device), output_hidden_states=True).hidden_states[LAYER].cpu()

    def transformers_16() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            transformers_32()

    # First calls choose code paths; a second of audio is enough for that.
    second = [clips[0][:SAMPLE_RATE_HZ]]
    ours_32(second)
    ours_16(second)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        reference(torch.from_numpy(second[0])[None].to(device))
    return {
        TRANSFORMERS_32: transformers_32,
        TRANSFORMERS_16: transformers_16,
        OURS_32: lambda: ours_32(clips),
        OURS_16: lambda: ours_16(clips),
    }


def unit_encoder(folder: str, dtype: Literal["float32", "bfloat16"]) -> UnitEncoder:
    config = EncoderConfig(name="hubert", path=folder, layer=LAYER, dtype=dtype)
    encoder = load_encoder(config)
    centroids = np.random.default_rng(0).standard_normal((NUM_UNITS, encoder.feature_dim)).astype(np.float32)
    return UnitEncoder(config, Codebook({"centroids": centroids}, {"encoder": encoder.describe()}))


def matmul_flops_per_s(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP per second of the fastest of a few square matrix products in this type, right now."""
    size = 2048 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - begin)
    return 2 * size**3 / best_s


def flops(clips: list[NDArray[np.float32]]) -> float:
    """FLOP of the matrix products up to `LAYER`, without padding; a multiplication and addition count as two."""
    config = transformers.HubertConfig(**SHAPE)
    width = config.hidden_size
    total = 0
    for clip in clips:
        num_frames, channels = len(clip), 1
        for C, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
            num_frames = (num_frames - kernel) // stride + 1
            total += 2 * num_frames * channels * kernel * C
            channels = C
        position = config.num_conv_pos_embeddings * width // config.num_conv_pos_embedding_groups
        layer = 4 * width + 2 * config.intermediate_size + 2 * num_frames
        total += 2 * num_frames * width * (channels + position + LAYER * layer + NUM_UNITS)
    return float(total)


def as_json(result: dict[str, Any]) -> dict[str, Any]:
    """The result in the form that all benchmarks print: `ratios`, `figures`, `machine`."""
    ratios = {name: value for name, value in result.items() if "vs_" in name}
    figures = {name: value for name, value in result.items() if name not in ratios and name != "machine"}
    return {"ratios": ratios, "figures": figures, "machine": result["machine"]}


def print_report(result: dict[str, Any]) -> None:
    on = result["machine"]
    print(f"{on['device']}, {on['threads']} threads, torch {on['torch']}, {on['date']}")
    print(f"{result['clips']} clips, {result['audio_s']:.0f} s of audio, median of {result['turns']} turns")
    for name, speed in result["hours_per_hour"].items():
        print(f"  {name:22} {speed:8.1f} hours of audio per hour")
    for dtype, share in result["share_of_matmul_rate"].items():
        rate = result["matmul_gflops_per_s"][dtype]
        print(f"  {dtype:22} {share:8.0%} of this machine's {rate:.0f} GFLOP/s in matrix products")
    for ratio in ("vs_transformers_float32", "vs_transformers_bfloat16", "float32_vs_transformers_float32"):
        print(f"{ratio}: {result[ratio]:.2f}")


if __name__ == "__main__":
    main()
