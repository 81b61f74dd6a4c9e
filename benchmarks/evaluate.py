"""Speed of evaluation: pairs scored per second, and short files tokenized per second, side by side with the usual ways.

    python benchmarks/evaluate.py [--quick] [--json] [--threads N]

Scoring: a speech LM of OPT-125M's shape scores pairs of sequences of 20 to 200 units, as sWUGGY and StoryCloze have
them. This project packs them without padding; `padded` is slamkit's way, batches of 8 in the order of the data, padded,
through transformers. `vs_padded` is the ratio, and `largest_difference` that of the scores, in nats.

Tokenizing: 1,000 files of 1 to 2 s (60 with --quick) become units by the embedded tokenizer, through Ray, start
included, as `twist evaluate` does it; `plain` is a loop that reads and encodes one file after the other in one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.generate import OPT_125M, VOCABULARY
from benchmarks.machine import machine
from model.lm.generate import ready_for_generation
from model.lm.scoring import sequence_scores
from model.lm.scoring_config import ScoringConfig
from pipeline.evaluation.item_units import AudioItem, units_of_items
from pipeline.speaking.tokenizer import encoder_of, find_codebook, load_tokenizer
from pipeline.work.cluster import ClusterConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

PADDED_BATCH = 8
SAMPLE_RATE_HZ = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pairs and files: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(quick=arguments.quick)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:34} {value:.4g}")


def measure(*, quick: bool) -> dict[str, Any]:
    """Measures all figures and ratios."""
    scoring = measure_scoring(num_pairs=24 if quick else 400)
    tokenizing = measure_tokenizing(num_files=60 if quick else 1000)
    return {
        "ratios": {
            "vs_padded": scoring["pairs_per_s"] / scoring["padded_pairs_per_s"],
            "vs_plain_loop": tokenizing["files_per_s"] / tokenizing["plain_files_per_s"],
        },
        "figures": {**scoring, **tokenizing},
        "machine": machine(),
    }


def measure_scoring(num_pairs: int) -> dict[str, float]:
    """Pairs per second, packed and padded."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**OPT_125M, **VOCABULARY.as_config()))
    model = ready_for_generation(model, torch.float32, device)
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 200, size=num_pairs).repeat(2) + rng.integers(0, 10, size=2 * num_pairs)
    sequences = [rng.integers(500, size=length).astype(np.uint16) for length in lengths]
    sequence_scores(model, VOCABULARY, sequences[:4], ScoringConfig())  # warm up
    padded_scores(model, sequences[:4])
    began = time.perf_counter()
    packed = sequence_scores(model, VOCABULARY, sequences, ScoringConfig())
    packed_s = time.perf_counter() - began
    began = time.perf_counter()
    padded = padded_scores(model, sequences)
    padded_s = time.perf_counter() - began
    differences = [abs(float(ours.sum()) - theirs) for ours, theirs in zip(packed, padded, strict=True)]
    return {
        "pairs_per_s": num_pairs / packed_s,
        "padded_pairs_per_s": num_pairs / padded_s,
        "largest_difference": max(differences),
    }


@torch.inference_mode()
def padded_scores(model: PreTrainedModel, sequences: list[NDArray[np.uint16]]) -> list[float]:
    """The sum of log-probabilities of each sequence, by padded batches in the order of the data."""
    scores: list[float] = []
    for start in range(0, len(sequences), PADDED_BATCH):
        batch = [torch.from_numpy(VOCABULARY.encode(units)) for units in sequences[start : start + PADDED_BATCH]]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=VOCABULARY.pad_id)
        mask = torch.zeros_like(ids)
        for row, units in enumerate(batch):
            mask[row, : len(units)] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        nats = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
        scores += (nats * mask[:, 1:]).sum(dim=1).tolist()
    return scores


def measure_tokenizing(num_files: int) -> dict[str, float]:
    """Files per second, through Ray and one by one."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        items = []
        for number in range(num_files):
            wav = 0.1 * rng.standard_normal(int(rng.uniform(1, 2) * SAMPLE_RATE_HZ))
            path = Path(folder) / f"{number}.wav"
            soundfile.write(path, wav, SAMPLE_RATE_HZ)
            items.append(AudioItem(path.stem, str(path)))
        tokenizer = load_tokenizer("hubert-tiny-25hz")
        tokenizer(items[0].uri)
        began = time.perf_counter()
        plain = {item.item_id: tokenizer(item.uri).values for item in items}
        plain_s = time.perf_counter() - began
        book = find_codebook("hubert-tiny-25hz")
        began = time.perf_counter()
        units = units_of_items(folder, items, encoder_of(book), book, ClusterConfig(), lambda *_, **__: None)
        through_ray_s = time.perf_counter() - began
    assert all(np.array_equal(units.of[name].units, values) for name, values in plain.items()), "other units"
    return {
        "files": num_files,
        "files_per_s": num_files / through_ray_s,
        "plain_files_per_s": num_files / plain_s,
    }


if __name__ == "__main__":
    main()
