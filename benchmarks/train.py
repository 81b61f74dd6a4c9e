"""Training a speech LM: this trainer compared with transformers' Trainer, on the same samples, batches and precision.

    python benchmarks/train.py [--shapes opt_125m ...] [--steps N] [--turns N] [--device cpu|cuda] [--precision P]
        [--quick] [--json]

Samples have 150 to 700 units (of 500 kinds, from a Markov chain). There is no dropout, so both get the same losses.
Both take 32 samples per step, 8 per forward pass, from the same weights and in the same order, with AdamW, the same
rates and clipping, in bfloat16 unless told otherwise (with --quick 8 samples, in float32, which every processor
computes); transformers' uses its own flag for that and pads to the longest of the 8, as users would. They take turns,
each in a process of its own. Speed is that of the fastest step of all turns; padding does not count.

    units_per_s      units, without padding, per second
    units_per_cpu_s  units per second of CPU time, which other work on the machine disturbs least, with --threads 1
    matrix_share     6 FLOP per parameter and unit, as a share of the measured rate of products of two large matrices
    peak_gib         peak memory of the process (on a GPU: GPU memory)

`loss_difference` is the largest difference between the two curves; `float32_loss_difference` the largest over 20 steps
(with --quick 5) of a small model in float32, compared with a plain loop over transformers' model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from jobs.command import quiet_transformers
from model.lm.loader import TrainingBatches
from model.lm.row_packing import padded_rows
from model.lm.samples import UnitSamples
from model.lm.speech_lm import cold_start
from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.lm.vocab import Vocabulary
from model.training.metrics import read_metrics
from model.training.optim import adamw
from pipeline.shards import Sample, open_dataset, write_index, write_shard

if TYPE_CHECKING:
    from collections.abc import Iterator

OPT = {"model_type": "opt", "max_position_embeddings": 2048, "dropout": 0.0}
SHAPES: dict[str, dict[str, Any]] = {
    "bloom_tiny": {"model_type": "bloom", "hidden_size": 192, "n_layer": 3, "n_head": 6},
    "opt_tiny": {"hidden_size": 256, "ffn_dim": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
    "opt_125m": {"hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "opt_350m": {
        "hidden_size": 1024,
        "ffn_dim": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
    },
    "opt_1.3b": {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32},
}
NUM_UNITS = 500
LENGTHS = (150, 700)
ROWS_AT_ONCE = 8


class Enough(BaseException):
    """Ends a run after its last step, before it saves a checkpoint."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=tuple(SHAPES), default=["opt_125m", "opt_350m"])
    parser.add_argument("--steps", type=int, default=4, help="steps of each turn; the first is not timed")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="samples a step")
    parser.add_argument("--threads", type=int, help="of each run; torch's own choice unless given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default=None)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, one turn: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # whose loop, shape, folder
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_child(*arguments.child, arguments)))
        return
    if arguments.quick:
        arguments.shapes, arguments.turns, arguments.batch_size = ["opt_tiny"], 1, ROWS_AT_ONCE
    arguments.precision = arguments.precision or ("float32" if arguments.quick else "bfloat16")
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:44} {value:.6g}")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all shapes, and compares losses in float32."""
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_units(Path(folder, "shards"), num_samples=arguments.steps * arguments.batch_size)
        for shape in arguments.shapes:
            runs: dict[str, list[dict[str, Any]]] = {"this": [], "transformers": []}
            for _ in range(arguments.turns):
                for whose in runs:
                    runs[whose].append(_in_a_process(whose, shape, folder, arguments))
                    print(f"{shape} {whose}: {runs[whose][-1]}", file=sys.stderr, flush=True)
            for whose, turns in runs.items():
                figures[f"{shape}_{whose}_units_per_s"] = max(turn["units_per_s"] for turn in turns)
                figures[f"{shape}_{whose}_units_per_cpu_s"] = max(turn["units_per_cpu_s"] for turn in turns)
                figures[f"{shape}_{whose}_matrix_share"] = max(turn["matrix_share"] for turn in turns)
                figures[f"{shape}_{whose}_peak_gib"] = min(turn["peak_gib"] for turn in turns)
            ours, theirs = runs["this"][0]["losses"], runs["transformers"][0]["losses"]
            figures[f"{shape}_loss_difference"] = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
            figures[f"{shape}_padding_share"] = runs["transformers"][0]["padding_share"]
            ratios[f"{shape}_vs_hf_trainer"] = (
                figures[f"{shape}_this_units_per_s"] / figures[f"{shape}_transformers_units_per_s"]
            )
            ratios[f"{shape}_vs_hf_trainer_per_cpu_s"] = (
                figures[f"{shape}_this_units_per_cpu_s"] / figures[f"{shape}_transformers_units_per_cpu_s"]
            )
            ratios[f"{shape}_peak_memory_vs_hf_trainer"] = (
                figures[f"{shape}_this_peak_gib"] / figures[f"{shape}_transformers_peak_gib"]
            )
        figures["float32_loss_difference"] = _float32_difference(Path(folder), num_steps=5 if arguments.quick else 20)
    ratios["vs_hf_trainer"] = min(ratios[f"{shape}_vs_hf_trainer"] for shape in arguments.shapes)
    device = torch.device(arguments.device)
    return {"ratios": ratios, "figures": figures, "machine": machine(device, transformers=transformers.__version__)}


def write_units(shards: Path, num_samples: int) -> None:
    """Samples of a Markov chain in which each unit has 20 likely successors."""
    rng = np.random.default_rng(0)
    successors = rng.integers(0, NUM_UNITS, (NUM_UNITS, 20))
    parts: dict[str, list[Sample]] = {"train": [], "validation": []}
    for number in range(num_samples + 2):
        split = "train" if number < num_samples else "validation"
        units = np.empty(int(rng.integers(*LENGTHS)), np.uint16)
        units[0] = rng.integers(NUM_UNITS)
        choices = rng.integers(0, 20, len(units))
        for place in range(1, len(units)):
            units[place] = successors[units[place - 1], choices[place]]
        key = f"{split}-{number}"
        durations = np.ones(len(units), np.uint16)
        parts[split].append(Sample(key, key, "markov", None, None, split, 0.0, len(units) / 25, units, durations))
    written = [write_shard(str(shards), f"{split}/{split}-000000.tar", part) for split, part in parts.items()]
    info = {"num_units": NUM_UNITS, "frame_rate_hz": 25, "codebook": {"fingerprint": "markov"}}
    rows = [row for _, shard_rows in written for row in shard_rows]
    write_index(str(shards), {**info, "shards": [description for description, _ in written]}, rows)


def configuration(shape: str, arguments: argparse.Namespace) -> TrainConfig:
    """The settings of both trainers."""
    own = SHAPES[shape]
    if "model_type" not in own:
        own = {**OPT, "word_embed_proj_dim": own["hidden_size"], **own}
    return TrainConfig(
        architecture=own,
        batch_size=arguments.batch_size,
        gradient_accumulation=arguments.batch_size // ROWS_AT_ONCE,
        num_steps=arguments.steps,
        warmup_steps=2,
        peak_lr=1e-4,
        precision=arguments.precision,
        validate_every=10**9,
        checkpoint_every=10**9,
        log_every=1,
        device=arguments.device,
    )


def _in_a_process(whose: str, shape: str, folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", whose, shape, folder, "--device", arguments.device]
    command += ["--steps", str(arguments.steps), "--batch-size", str(arguments.batch_size)]
    command += ["--precision", arguments.precision]
    command += ["--threads", str(arguments.threads)] if arguments.threads else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(whose: str, shape: str, folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    quiet_transformers()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = configuration(shape, arguments)
    run = _ours if whose == "this" else _transformers
    steps = run(config, Path(folder))
    lengths = [steps[step]["num_units"] for step in range(1, len(steps))]
    seconds = [steps[step]["seconds"] for step in range(1, len(steps))]
    cpu_seconds = [steps[step]["cpu_seconds"] for step in range(1, len(steps))]
    units_per_s = max(units / took for units, took in zip(lengths, seconds, strict=True))
    units_per_cpu_s = max(units / took for units, took in zip(lengths, cpu_seconds, strict=True))
    on_gpu = arguments.device == "cuda"
    model_flops = 6 * _num_matrix_parameters(config) * (units_per_s if on_gpu else units_per_cpu_s)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "units_per_s": units_per_s,
        "units_per_cpu_s": units_per_cpu_s,
        "matrix_share": model_flops / _matrix_rate(torch.device(arguments.device), arguments.precision),
        "peak_gib": peak / 2**30,
        "losses": [step["loss"] for step in steps],
        "padding_share": steps[0].get("padding_share", 0.0),
    }


def _ours(config: TrainConfig, folder: Path) -> list[dict[str, float]]:
    steps: list[dict[str, float]] = []
    before = {"units": 0.0, "at_s": 0.0, "cpu_s": 0.0}

    def on_event(event: dict[str, Any]) -> None:
        now = time.perf_counter()
        if event["event"] == "step":
            num_units, seconds = event["tokens"] - before["units"], now - before["at_s"]
            cpu_seconds = time.process_time() - before["cpu_s"]
            figures = {"num_units": num_units, "seconds": seconds, "cpu_seconds": cpu_seconds}
            steps.append({"loss": event["loss"], **figures})
            before["units"] = event["tokens"]
            if event["step"] == config.num_steps:
                raise Enough
        before["at_s"], before["cpu_s"] = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as checkpoints:
        try:
            train(config, str(folder / "shards"), checkpoints, on_event)
        except Enough:
            return steps
    raise AssertionError("the last step was not reported")


def _transformers(config: TrainConfig, folder: Path) -> list[dict[str, float]]:
    samples, vocabulary, model = _start(config, folder)
    batches = TrainingBatches(samples, vocabulary, batch_size=config.batch_size, num_micro_batches=1, seed=config.seed)
    order = [int(i) for step in range(config.num_steps) for i in batches.sample_indices(step)]

    class InOrder(torch.utils.data.IterableDataset[dict[str, Any]]):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for index in order:
                yield {"ids": torch.from_numpy(vocabulary.encode(samples[index]))}

    padding: list[float] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [row["ids"] for row in rows]
        token_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=vocabulary.pad_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        padding.append(1 - mask.float().mean().item())
        return {"input_ids": token_ids, "attention_mask": mask, "labels": token_ids.masked_fill(mask == 0, -100)}

    steps: list[dict[str, float]] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began_s, self.began_cpu_s = time.perf_counter(), time.process_time()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            indices = batches.sample_indices(state.global_step - 1)
            num_units = int(samples.num_units[indices].sum())
            seconds, cpu_seconds = time.perf_counter() - self.began_s, time.process_time() - self.began_cpu_s
            steps.append({"num_units": num_units, "seconds": seconds, "cpu_seconds": cpu_seconds})

        def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, float] | None = None, **____: Any) -> None:
            if logs and "loss" in logs:
                steps[-1]["loss"] = logs["loss"]

    optimizer = adamw(model, config.betas, config.weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: config.learning_rate(n + 1))
    with tempfile.TemporaryDirectory() as output:
        settings = transformers.TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=ROWS_AT_ONCE,
            gradient_accumulation_steps=config.batch_size // ROWS_AT_ONCE,
            max_steps=config.num_steps,
            max_grad_norm=config.clip_norm,
            bf16=config.precision == "bfloat16",
            use_cpu=config.device == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            accelerator_config={"dispatch_batches": False},
        )
        transformers.Trainer(
            model=model,
            args=settings,
            train_dataset=InOrder(),
            data_collator=collate,
            optimizers=(optimizer, schedule),
            callbacks=[Clock()],
        ).train()
    steps[0]["padding_share"] = float(np.mean(padding))
    return steps


def _start(config: TrainConfig, folder: Path) -> tuple[UnitSamples, Vocabulary, Any]:
    dataset = open_dataset(str(folder / "shards"))
    vocabulary = Vocabulary.of_dataset(dataset)
    assert config.architecture is not None
    ours = cold_start(config.architecture, vocabulary, config.seed)
    model = transformers.AutoModelForCausalLM.from_config(ours.config)
    model.load_state_dict(ours.state_dict())
    return UnitSamples(dataset, "train", config.max_units), vocabulary, model.train()


def _num_matrix_parameters(config: TrainConfig) -> int:
    """Parameters that each unit is multiplied with: all but embedding tables, except one tied to the head."""
    assert config.architecture is not None
    model = cold_start(config.architecture, Vocabulary(NUM_UNITS), seed=0)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    tables -= {id(model.get_output_embeddings().weight)}
    return sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in tables)


def _matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP per second (on a CPU: per CPU second) of a product of two large matrices, the best of ten."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    size = 8192 if device.type == "cuda" else 3072
    a = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    best = float("inf")
    for _ in range(10):
        began_s = clock()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - began_s)
    return float(2 * size**3 / best)


def _float32_difference(folder: Path, num_steps: int) -> float:
    """The largest difference in loss from a plain loop over padded rows, over some steps in float32."""
    arguments = argparse.Namespace(batch_size=ROWS_AT_ONCE, steps=num_steps, device="cpu", precision="float32")
    config = configuration("opt_tiny", arguments)
    train(config, str(folder / "shards"), str(folder / "float32"))
    ours = [line["loss"] for line in read_metrics(str(folder / "float32")) if "loss" in line]
    samples, vocabulary, model = _start(config, folder)
    optimizer = adamw(model, config.betas, config.weight_decay)
    batches = TrainingBatches(samples, vocabulary, batch_size=config.batch_size, num_micro_batches=1, seed=config.seed)
    largest = 0.0
    for step in range(num_steps):
        rows = padded_rows(batches[step].micro_batches[0], vocabulary.pad_id)
        mask = (rows.token_ids != vocabulary.pad_id).long()
        loss = model(input_ids=rows.token_ids, attention_mask=mask, labels=rows.labels).loss
        loss.backward()
        assert config.clip_norm is not None
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(step + 1)
        optimizer.step()
        optimizer.zero_grad()
        largest = max(largest, abs(loss.item() - ours[step]))
    return largest


if __name__ == "__main__":
    main()
