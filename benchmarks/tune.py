"""Speed and memory of a step of preference tuning (DPO), compared with a plain step of transformers.

    python benchmarks/tune.py [--quick] [--json] [--threads N] [--turns N] [--precision float32|bfloat16]

A speech LM of OPT-125M's size (with --quick, of a tenth) and random weights is tuned on pairs with lengths as in
SpokenSwag: prompts of 40 to 120 units, endings of 30 to 150. The plain step is four padded forward passes, chosen and
rejected through policy and reference, then a backward pass and AdamW. Ours packs both endings of all pairs into one row
without padding, and takes the reference's log-probabilities, which were computed once, from a table. Both make the same
update; their losses are compared.

The two take turns; the best turn of each counts. Memory: peak resident memory of a process of its own for each, on a
GPU the allocator's peak.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.lm.vocab import Vocabulary
from model.lm.working_model import WorkingModel
from model.preferences.dpo import PairLogProbs, dpo_loss, ending_log_probs, without_dropout
from model.preferences.pair_batches import PairMicroBatch
from model.preferences.tune_config import TuneConfig
from model.training.distributed import Ranks
from model.training.optim import adamw, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Pair = tuple[list[int], list[int], list[int]]

VOCABULARY = Vocabulary(500, offset=2, bos_id=1)
OPT = {"model_type": "opt", "num_attention_heads": 12, "max_position_embeddings": 1024}
FULL = {**OPT, "hidden_size": 768, "word_embed_proj_dim": 768, "ffn_dim": 3072, "num_hidden_layers": 12}
QUICK = {**OPT, "hidden_size": 384, "word_embed_proj_dim": 384, "ffn_dim": 1536, "num_hidden_layers": 4}
BETA, RATE = 0.1, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model: less than a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of both")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.quick, arguments.turns, arguments.precision, arguments.threads)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:34} {value:.4g}")


def measure(quick: bool, num_turns: int, precision: str, num_threads: int) -> dict[str, Any]:
    """All figures, and their ratios to the plain step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = draw_pairs(4 if quick else 8)
    steps = {name: make(quick, pairs, precision, device) for name, make in MAKERS.items()}
    first = {name: step() for name, step in steps.items()}
    tolerance = 1e-3 if precision == "float32" else 3e-2
    assert abs(first["ours"] - first["plain"]) < tolerance, f"the losses differ: {first}"
    best_s = dict.fromkeys(steps, float("inf"))
    for _ in range(num_turns):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            best_s[name] = min(best_s[name], time.perf_counter() - begin)
    peaks = {name: peak_bytes(name, quick, precision, num_threads) for name in steps}
    num_tokens = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in pairs)
    figures = {
        "pairs": len(pairs),
        "tokens": num_tokens,
        "pairs_per_s": len(pairs) / best_s["ours"],
        "plain_pairs_per_s": len(pairs) / best_s["plain"],
        "peak_MiB": peaks["ours"] / 2**20,
        "plain_peak_MiB": peaks["plain"] / 2**20,
    }
    return {
        "ratios": {"vs_plain": best_s["plain"] / best_s["ours"], "memory": peaks["ours"] / peaks["plain"]},
        "figures": figures,
        "machine": machine(device, transformers=transformers.__version__),
    }


def draw_pairs(count: int) -> list[Pair]:
    """Token ids of prompts and endings, with lengths as in SpokenSwag; EOS behind each ending."""
    rng = np.random.default_rng(0)

    def units(low: int, high: int) -> list[int]:
        drawn: list[int] = (2 + rng.integers(500, size=rng.integers(low, high))).tolist()
        return drawn

    return [([1, *units(40, 120)], [*units(30, 150), 1], [*units(30, 150), 1]) for _ in range(count)]


def lm(quick: bool) -> Any:
    torch.manual_seed(0)
    settings = {**(QUICK if quick else FULL), **VOCABULARY.as_config(), "dropout": 0.0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))


def our_step(quick: bool, pairs: list[Pair], precision: str, device: torch.device) -> Callable[[], float]:
    """A step as `twist tune` makes it."""
    model = lm(quick)
    without_dropout(model)
    working = WorkingModel.of(model, TuneConfig(precision=precision), Ranks(device=device))  # type: ignore[arg-type]
    optimizer = adamw(model, (0.9, 0.999), 0.0)
    set_learning_rate(optimizer, RATE)
    sequences = [prompt + ending for prompt, *endings in pairs for ending in endings]
    batch = PairMicroBatch(
        torch.tensor([token for sequence in sequences for token in sequence]),
        tuple(map(len, sequences)),
        tuple(len(prompt) for prompt, *_ in pairs for _ in range(2)),
        tuple(range(len(pairs))),
    )
    with torch.no_grad():
        reference = PairLogProbs(*(part.clone() for part in ending_log_probs(working.own, batch)))

    def step() -> float:
        loss = dpo_loss(ending_log_probs(working.own, batch), reference, BETA).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        working.round_weights()
        return loss.item()

    return step


def plain_step(quick: bool, pairs: list[Pair], precision: str, device: torch.device) -> Callable[[], float]:
    """A step as plain trainers make it: padded batches, and the reference beside the policy."""
    policy = lm(quick).to(device).train()
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)

    def log_probs(model: Any, which: int) -> Tensor:
        rows = [pair[0] + pair[which] for pair in pairs]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        starts = torch.tensor([[len(pair[0])] for pair in pairs], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        of_next = logits[:, :-1].float().log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
        is_ending = (torch.arange(1, longest, device=device) >= starts) & mask[:, 1:].bool()
        return (of_next * is_ending).sum(dim=1)

    def step() -> float:
        with torch.no_grad():
            kept = [log_probs(reference, which) for which in (1, 2)]
        found = [log_probs(policy, which) for which in (1, 2)]
        loss = -F.logsigmoid(BETA * ((found[0] - kept[0]) - (found[1] - kept[1]))).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


MAKERS = {"ours": our_step, "plain": plain_step}


def peak_bytes(name: str, quick: bool, precision: str, num_threads: int) -> int:
    """The peak memory of two steps, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_bytes, (name, quick, precision, num_threads))


def _peak_bytes(name: str, quick: bool, precision: str, num_threads: int) -> int:
    torch.set_num_threads(num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = MAKERS[name](quick, draw_pairs(4 if quick else 8), precision, device)
    step()
    step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not getrusage: a new process takes over the peak of the one that started it.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
