"""Does a warm start help, as TWIST claims? Trains a small speech LM warm and cold on the largest speech set at hand.

    python benchmarks/warm_vs_cold.py [--folder FOLDER] [--hours H] [--speech DIR ...] [--quick] [--json] [--plot PNG]

1. A text LM (OPT-shaped, 3.5 million parameters) is trained on the bytes of English prose that comes with Python: the
   documentation in the standard library's source, except pydoc's topics, which the synthesized speech reads aloud.
2. Speech is synthesized (`twist make-speech voices`), recordings in --speech are added, and both are tokenized by
   `twist run` with hubert-tiny-25hz and its 100 units. Speakers of validation are not in train.
3. Warm (`init`: the text LM) and cold (`architecture`: its shape) runs, otherwise the same, are trained with three peak
   rates each; then the best rate of each with two more seeds (of new weights, sample order and dropout).

What is finished in FOLDER is not done again. The spread over seeds reflects training, not the choice of speakers.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from jobs.command import quiet_transformers
from model.lm.train_config import TrainConfig
from model.lm.trainer import TrainResult, train
from model.training.metrics import read_metrics
from pipeline.shards import Sample, write_index, write_shard

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = {
    "model_type": "opt",
    "hidden_size": 256,
    "word_embed_proj_dim": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "ffn_dim": 1024,
    "max_position_embeddings": 1024,
    "dropout": 0.1,
}
PEAK_RATES = (4e-4, 1.2e-3, 3.6e-3)
SEEDS = (0, 1, 2)
BYTES_PER_SAMPLE = 512
TEXT = TrainConfig(
    architecture=ARCHITECTURE,
    batch_size=16,
    max_units=BYTES_PER_SAMPLE,
    num_steps=800,
    peak_lr=2e-3,
    final_lr=2e-4,
    warmup_steps=80,
    schedule="cosine",
    weight_decay=0.1,
    precision="bfloat16",
    validate_every=400,
    checkpoint_every=400,
    device="cpu",
)
SPEECH = replace(
    TEXT,
    batch_size=8,
    max_units=704,
    num_steps=480,
    warmup_steps=48,
    schedule="inverse_sqrt",
    validate_every=60,
    checkpoint_every=480,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/warm_vs_cold"), help="where all of it is kept")
    parser.add_argument("--hours", type=float, default=3.0, help="speech to synthesize")
    parser.add_argument("--speech", type=Path, nargs="*", default=[], help="folders of recorded speech to add")
    parser.add_argument("--text-steps", type=int, default=TEXT.num_steps, help="steps of the text LM")
    parser.add_argument("--steps", type=int, default=SPEECH.num_steps, help="steps of each run on speech")
    parser.add_argument("--plot", type=Path, help="where to draw the curves (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: it shows nothing but that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    quiet_transformers()
    with contextlib.redirect_stdout(sys.stderr):
        result = measure(arguments)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:36} {value if isinstance(value, list) else f'{value:.6g}'}")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole experiment."""
    folder, hours, speech, quick = arguments.folder, arguments.hours, arguments.speech, arguments.quick
    text, spoken = _of_length(TEXT, arguments.text_steps), _of_length(SPEECH, arguments.steps)
    rates, seeds = PEAK_RATES, SEEDS
    if quick:
        folder, hours, speech = folder / "quick", 0.15, []
        text = replace(text, num_steps=20, warmup_steps=5, validate_every=10)
        spoken = replace(spoken, num_steps=10, warmup_steps=3, validate_every=5)
        rates, seeds = rates[1:2], seeds[:2]
    text_shards = folder / "text"
    if not (text_shards / "dataset.json").exists():
        _write_text(text_shards, max_bytes=300_000 if quick else 10_000_000)
    text_lm = train(text, str(text_shards), str(folder / "text_lm"), _tell("text"))
    shards = _tokenized(folder / "speech", hours, speech)

    def run(start: str, rate: float, seed: int) -> tuple[TrainResult, list[tuple[int, float]]]:
        source = {"init": text_lm.checkpoint, "architecture": None} if start == "warm" else {}
        config = replace(spoken, **source, peak_lr=rate, final_lr=rate / 5, seed=seed)
        name = f"{start}-{rate:g}-{seed}"
        result = train(config, shards, str(folder / "runs" / name), _tell(name))
        lines = read_metrics(str(folder / "runs" / name))
        curve = [(line["step"], line["validation"]["mean"]["perplexity"]) for line in lines if "validation" in line]
        return result, curve

    figures: dict[str, Any] = {"text_steps": text.num_steps, "text_lm_perplexity_per_byte": _best(text_lm)}
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    best: dict[str, list[float]] = {}
    for start in ("warm", "cold"):
        swept = {rate: run(start, rate, seeds[0]) for rate in rates}
        chosen = min(rates, key=lambda rate: _best(swept[rate][0]))
        runs = [swept[chosen], *(run(start, chosen, seed) for seed in seeds[1:])]
        curves[start] = [curve for _, curve in runs]
        best[start] = [_best(result) for result, _ in runs]
        figures |= {f"{start}_perplexity_at_peak_lr_{rate:g}": _best(swept[rate][0]) for rate in rates}
        figures |= {
            f"{start}_peak_lr": chosen,
            f"{start}_perplexity": best[start],
            f"{start}_perplexity_mean": float(np.mean(best[start])),
            f"{start}_perplexity_std": float(np.std(best[start], ddof=1)),
        }
        result = runs[0][0]
        figures |= {"unigram_perplexity": result.unigram.mean.perplexity, "units_seen": result.num_units_seen}
    mean_curves = {start: np.mean([[ppl for _, ppl in curve] for curve in curves[start]], axis=0) for start in curves}
    steps = [step for step, _ in curves["cold"][0]]
    figures["validated_at_steps"] = steps
    figures |= {f"{start}_mean_curve": [round(float(ppl), 3) for ppl in mean_curves[start]] for start in curves}
    cold_end = float(min(mean_curves["cold"]))
    reached = [step for step, ppl in zip(steps, mean_curves["warm"], strict=True) if ppl <= cold_end]
    figures["warm_steps_to_colds_best"] = reached[0] if reached else -1
    if arguments.plot:
        _draw(curves, figures, arguments.plot)
    ratios = {"warm_perplexity_vs_cold": figures["warm_perplexity_mean"] / figures["cold_perplexity_mean"]}
    return {"ratios": ratios, "figures": figures, "machine": machine()}


def _of_length(config: TrainConfig, num_steps: int) -> TrainConfig:
    """The configuration scaled to another number of steps."""
    names = ("warmup_steps", "validate_every", "checkpoint_every")
    scaled = {name: max(1, round(num_steps / config.num_steps * getattr(config, name))) for name in names}
    return replace(config, num_steps=num_steps, **scaled)


def _best(result: TrainResult) -> float:
    assert result.best is not None
    return result.best.mean.perplexity


def _write_text(shards: Path, max_bytes: int) -> None:
    """Writes English prose as shards whose units are bytes; every fortieth file is for validation."""
    samples: dict[str, list[Sample]] = {"train": [], "validation": []}
    total = 0
    for number, (name, text) in enumerate(_prose()):
        split = "validation" if number % 40 == 0 else "train"
        units = np.frombuffer(text.encode(), np.uint8).astype(np.uint16)
        for start in range(0, len(units) - 1, BYTES_PER_SAMPLE):
            piece = units[start : start + BYTES_PER_SAMPLE]
            key = f"{len(samples[split]):07d}"
            durations = np.ones(len(piece), np.uint16)
            samples[split].append(Sample(key, key, "prose", name, "en", split, 0.0, 1.0, piece, durations))
        total += len(units)
        if total >= max_bytes:
            break
    described = [write_shard(str(shards), f"{split}/{split}-000000.tar", part) for split, part in samples.items()]
    info = {"num_units": 256, "frame_rate_hz": 25, "codebook": {"fingerprint": "bytes"}}
    write_index(
        str(shards), {**info, "shards": [one for one, _ in described]}, [row for _, rows in described for row in rows]
    )
    print(f"text: {total:,} bytes", file=sys.stderr)


def _prose() -> Iterator[tuple[str, str]]:
    """Docstrings of installed Python sources, by file, always in the same order."""
    folders = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")]
    files = sorted({path for folder in folders for path in folder.rglob("*.py")})
    for path in sorted(files, key=lambda path: (len(path.parts), path.name, str(path))):
        if "pydoc_data" in path.parts or "test" in str(path):
            continue
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, ValueError, RecursionError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        strings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        text = "\n\n".join(string for string in strings if len(string) > 100)
        if text:
            yield path.name, text


def _tokenized(folder: Path, hours: float, speech: list[Path]) -> str:
    """Makes shards of the units of synthesized and recorded speech."""
    voices = folder / "voices"
    twist = [sys.executable, "-m", "jobs"]
    if not (voices / "corpus.json").exists():
        command = [*twist, "make-speech", "voices", str(voices), "--speech.hours", str(hours)]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    corpora = [{"kind": "folder", "root": str((voices / "train").resolve()), "name": "voices"}]
    for root in speech:
        kind = "librispeech" if (root / "SPEAKERS.TXT").exists() else "folder"
        corpora.append({"kind": kind, "root": str(root.resolve()), "name": root.resolve().name.lower()})
    recipe = {
        "corpora": corpora,
        "language": {"languages": ["en"], "unknown": "keep"},
        "segments": {"max_s": 16, "detect_speech": "none", "work_unit_minutes": 10},
        "encoder": {"name": "hubert", "path": "hubert-tiny-25hz", "layer": 3},
        "codebook": {"num_units": 100, "path": "hubert-tiny-25hz-km100"},
        "pack": {"split": {"corpus_splits": "ignore", "validation": 0.06, "test": 0.0}},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [*twist, "run", "--config", str(path), "--run", str(folder.resolve() / "run"), "--until", "pack"]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    return str(folder.resolve() / "run" / "shards")


def _tell(name: str) -> Any:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "validation":
            perplexity = event["validation"]["mean"]["perplexity"]
            print(f"{name}: step {event['step']}, perplexity {perplexity:.3f}", file=sys.stderr, flush=True)

    return on_event


def _draw(curves: dict[str, list[list[tuple[int, float]]]], figures: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for start, color in (("warm", "tab:red"), ("cold", "tab:blue")):
        for number, curve in enumerate(curves[start]):
            label = f"{start}, peak rate {figures[f'{start}_peak_lr']:g}" if number == 0 else None
            axes.plot(*zip(*curve[1:], strict=True), color=color, linewidth=1, label=label)
    axes.axhline(figures["unigram_perplexity"], color="gray", linestyle=":", label="unit frequencies alone")
    axes.set(xlabel="step", ylabel="validation perplexity", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
