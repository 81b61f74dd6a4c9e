"""Speed of generation: a speech LM's units, compared with transformers' `generate`, and the vocoder's audio.

    python benchmarks/generate.py [--quick] [--json] [--threads N] [--turns N]

Units: a speech LM of OPT-125M's size continues 8 prompts of different lengths (60 to 83 units, about 3 s of speech) to
the published length. Its weights are random, which does not affect speed. This project continues all prompts at once;
transformers' `generate`, with a key-value cache and the same temperature and top_k, takes one prompt at a time, as the
published script does. The two take turns, and the best turn of each counts.

Vocoder: a unit HiFi-GAN of the published shape at 25 Hz with random weights, and the embedded one, each speaking 10 s.
`real_time_factor` is seconds of work per second of audio. `first_audio_s` is the time until a stream yields its first
samples, when all units are known at the start.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.artefacts import resolve
from model.lm.generate import continue_units, ready_for_generation
from model.lm.sampling_config import SamplingConfig
from model.lm.vocab import Vocabulary
from model.vocoder.checkpoint import load_melody, load_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.stream import VocoderStream, look_ahead_frames
from model.vocoder.synthesizer import Synthesizer, Utterance
from model.vocoder.vocoder import Vocoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NUM_PROMPTS = 8
VOCABULARY = Vocabulary(500)
OPT_125M = {
    "model_type": "opt",
    "hidden_size": 768,
    "ffn_dim": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "word_embed_proj_dim": 768,
    "max_position_embeddings": 2048,
}
FRAME_RATE_HZ = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter continuations and audio: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = measure(device, quick=arguments.quick, num_turns=arguments.turns)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:34} {value:.4g}")


def measure(device: torch.device, *, quick: bool, num_turns: int) -> dict[str, Any]:
    """Measures all figures, and the ratio to transformers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**OPT_125M, **VOCABULARY.as_config()))
    model.to(device).eval()
    ours = ready_for_generation(copy.deepcopy(model), torch.float32, device)
    generator = np.random.default_rng(0)
    lengths = np.linspace(20, 28, NUM_PROMPTS).astype(int) if quick else np.linspace(60, 83, NUM_PROMPTS).astype(int)
    prompts = [generator.integers(500, size=length).astype(np.uint16) for length in lengths]
    config = SamplingConfig()
    num_new = sum(config.max_length(len(prompt)) - len(prompt) for prompt in prompts)
    ours_s, theirs_s = in_turns(
        [
            lambda: continue_units(ours, VOCABULARY, prompts, config, batch_size=NUM_PROMPTS),
            lambda: [generate_with_transformers(model, prompt, config) for prompt in prompts],
        ],
        1 if quick else num_turns,
        device,
    )
    audio_s = 2.0 if quick else 10.0
    published = Vocoder(VocoderConfig()).for_inference(torch.float32, device)
    folder = Path(resolve("hifigan-tiny-25hz"))
    (embedded, _), melody = load_vocoder(folder), load_melody(folder)
    embedded.for_inference(torch.float32, device)
    units = generator.integers(100, size=round(audio_s * FRAME_RATE_HZ)).astype(np.uint16)
    published_s, embedded_s, first_audio_s = in_turns(
        [
            lambda: Synthesizer(published)([one_frame_each(units)]),
            lambda: Synthesizer(embedded, melody=melody)([one_frame_each(units)]),
            lambda: first_audio(published, units),
        ],
        1 if quick else num_turns,
        device,
    )
    figures = {
        "prompts": NUM_PROMPTS,
        "new_units": num_new,
        "units_per_s": num_new / ours_s,
        "transformers_units_per_s": num_new / theirs_s,
        "vocoder_seconds": audio_s,
        "vocoder_real_time_factor": published_s / audio_s,
        "embedded_real_time_factor": embedded_s / audio_s,
        "first_audio_s": first_audio_s,
        "look_ahead_s": look_ahead_frames(published.config) / FRAME_RATE_HZ,
    }
    if device.type == "cuda":
        figures |= on_gpu(published.config, units, device)
    return {
        "ratios": {"vs_transformers": theirs_s / ours_s},
        "figures": figures,
        "machine": machine(device, transformers=transformers.__version__),
    }


def in_turns(jobs: list[Callable[[], object]], num_turns: int, device: torch.device) -> list[float]:
    """Runs jobs in turns, after one warm-up each; returns the best time of each in seconds."""
    best = [float("inf")] * len(jobs)
    for turn in range(num_turns + 1):
        for number, job in enumerate(jobs):
            begin = time.perf_counter()
            job()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                best[number] = min(best[number], time.perf_counter() - begin)
    return best


@torch.inference_mode()
def generate_with_transformers(model: Any, prompt: NDArray[np.uint16], config: SamplingConfig) -> torch.Tensor:
    """Continues one prompt as the published script does."""
    ids = torch.from_numpy(VOCABULARY.encode(prompt))[None].to(model.device)
    return model.generate(  # type: ignore[no-any-return]
        ids,
        attention_mask=torch.ones_like(ids),
        max_length=config.max_length(len(prompt)),
        do_sample=True,
        temperature=config.temperature,
        top_k=config.top_k,
        use_cache=True,
    )


def one_frame_each(units: NDArray[np.uint16]) -> Utterance:
    """Random units that last one frame each."""
    return Utterance(units, np.ones(len(units), np.uint16))


def first_audio(vocoder: Vocoder, units: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The first samples of a stream."""
    stream = VocoderStream(vocoder)
    ones = np.ones(len(units), np.uint16)
    for start in range(len(units)):
        wav = stream.push(units[start : start + 1], ones[:1])
        if len(wav):
            return wav
    return stream.finish()


def on_gpu(config: VocoderConfig, units: NDArray[np.uint16], device: torch.device) -> dict[str, float]:
    """Measures the published shape in bfloat16 on 64 utterances at once."""
    vocoder = Vocoder(config).for_inference(torch.bfloat16, device)
    utterances = [one_frame_each(units)] * 64
    (seconds,) = in_turns([lambda: Synthesizer(vocoder)(utterances)], 3, device)
    return {"vocoder_bfloat16_batch_real_time_factor": seconds / (64 * len(units) / FRAME_RATE_HZ)}


if __name__ == "__main__":
    main()
