"""Speed of evaluation: pairs scored per second, and short files tokenized per second, side by side with the usual ways.

    python benchmarks/evaluate.py [--quick] [--json] [--threads N]

Scoring: a speech LM of OPT-125M's shape scores pairs of words, sentences and stories. How long these are, and how much
of a beginning two members have in common, is what the embedded tokenizer makes of `twist make-benchmark mini`. This
project packs them without padding and computes common beginnings once; `padded` is slamkit's way, batches of 8 in the
order of the data, padded, through transformers. `vs_padded_*` are the ratios by set, `vs_padded` is that of the time of
all, and `largest_difference` that of the scores, in nats. Both take turns, and the best turn of each counts.

Tokenizing: 1,000 files of 1 to 2 s (60 with --quick) become units by the embedded tokenizer, through Ray, start
included, as `twist evaluate` does it; `plain` is a loop that reads and encodes one file after the other in one process.
"""

from __future__ import annotations

import argparse
import copy
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
from model.lm.generate import ready_for_inference
from model.lm.scoring import sequence_scores
from model.lm.scoring_config import ScoringConfig
from pipeline.evaluation.item_units import AudioItem, units_of_items
from pipeline.speaking.tokenizer import encoder_of, find_codebook, load_tokenizer
from pipeline.work.cluster import ClusterConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

PADDED_BATCH = 8
# Mean units of a sequence, their standard deviation, and the share of it that both members begin with.
SETS = {"words": (10, 2.5, 0.0), "sentences": (50, 9, 0.51), "stories": (229, 16, 0.31)}
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


def measure(*, quick: bool, turns: int = 2) -> dict[str, Any]:
    """Measures all figures and ratios."""
    scoring = measure_scoring(dict(zip(SETS, (8, 8, 4) if quick else (200, 200, 50), strict=True)), turns)
    tokenizing = measure_tokenizing(num_files=60 if quick else 1000)
    ours_s, padded_s = (
        sum(scoring[f"{name}_pairs"] / scoring[f"{name}_{way}pairs_per_s"] for name in SETS) for way in ("", "padded_")
    )
    return {
        "ratios": {
            "vs_padded": padded_s / ours_s,
            **{
                f"vs_padded_{name}": scoring[f"{name}_pairs_per_s"] / scoring[f"{name}_padded_pairs_per_s"]
                for name in SETS
            },
            "vs_plain_loop": tokenizing["files_per_s"] / tokenizing["plain_files_per_s"],
        },
        "figures": {**scoring, **tokenizing},
        "machine": machine(),
    }


def measure_scoring(num_pairs: dict[str, int], turns: int) -> dict[str, float]:
    """Pairs per second of each set, by this project and padded."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**OPT_125M, **VOCABULARY.as_config()))
    plain = plain.to(device).eval().requires_grad_(False)
    model = ready_for_inference(copy.deepcopy(plain), torch.float32, device)
    figures: dict[str, float] = {}
    differences = []
    for name, pairs in num_pairs.items():
        sequences = pairs_of(name, pairs)
        ids = [VOCABULARY.encode(units) for units in sequences]
        sequence_scores(model, VOCABULARY, ids[:4], ScoringConfig())  # warm up
        padded_scores(plain, sequences[:4])
        ours_s, padded_s = [], []
        for _ in range(turns):
            began = time.perf_counter()
            ours = sequence_scores(model, VOCABULARY, ids, ScoringConfig())
            ours_s.append(time.perf_counter() - began)
            began = time.perf_counter()
            padded = padded_scores(plain, sequences)
            padded_s.append(time.perf_counter() - began)
        differences += [abs(float(one.sum()) - other) for one, other in zip(ours, padded, strict=True)]
        figures[f"{name}_pairs"] = pairs
        figures[f"{name}_pairs_per_s"] = pairs / min(ours_s)
        figures[f"{name}_padded_pairs_per_s"] = pairs / min(padded_s)
    return {**figures, "largest_difference": max(differences)}


def pairs_of(name: str, num_pairs: int) -> list[NDArray[np.uint16]]:
    """Pairs of random units of a set's shape, member by member, [2 num_pairs]."""
    mean, deviation, share = SETS[name]
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(num_pairs):
        length = mean + deviation * rng.standard_normal()
        start = rng.integers(500, size=round(share * length))
        for _ in range(2):
            end = rng.integers(500, size=max(4, round(length - len(start) + rng.normal(scale=2))))
            sequences.append(np.concatenate([start, end]).astype(np.uint16))
    return sequences


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
