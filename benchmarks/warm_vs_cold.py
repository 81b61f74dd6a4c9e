"""Does a warm start help, as TWIST claims? Small speech LMs, begun in four ways, on three amounts of speech.

    python benchmarks/english_text.py ENGLISH
    python benchmarks/warm_vs_cold.py --text ENGLISH [--speech DIR ...] [--folder FOLDER] [--plot PNG] [--report]
        [--text-tokens N] [--peak-rates R ...] [--quick] [--json]

1. Text LMs (BLOOM-shaped, 3.2 million parameters beside their tables) are trained on the text in ENGLISH: on pieces of
   a byte-level BPE, on characters, and, as Table 8 has bodies of another trade, on characters in random order.
2. Speech is synthesized (`twist make-speech voices`), recordings in --speech are added, and all are tokenized by
   `twist run` with hubert-tiny-25hz and its 100 units. Speakers of validation are not in train.
3. Speech LMs, cold and from the body of each text LM, are trained on 1%, 10% and 100% of the units with three peak
   rates, and the best of these with two more seeds (of new weights, sample order and dropout).
4. The best of 100% are held to spoken words and sentences (`twist make-benchmark mini`).

All of it takes some 15 hours on two cores. What is finished in FOLDER is not done again, and what was stopped goes on;
`--report` tells what is finished so far. Spreads over seeds reflect training, not the choice of speakers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from jobs.command import quiet_transformers
from model.lm.loader_config import LoaderConfig
from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from model.training.metrics import read_metrics
from pipeline.shards import Sample, write_index, write_shard
from pipeline.text.make_tokenizer import make_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
# Attention that favours what is near: with learned positions, as OPT's, no model of so few units beats an n-gram.
ARCHITECTURE = {
    "model_type": "bloom",
    "hidden_size": 256,
    "n_layer": 4,
    "n_head": 4,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
}
BODIES = ("bpe", "characters", "shuffled")
STARTS = ("cold", *BODIES)
BPE_PIECES, CHARACTERS = 512, 257
# By share of the units: steps, which are 2 epochs of all and ever more of less.
STEPS = {1.0: 240, 0.1: 120, 0.01: 60}
PEAK_RATES = (5e-4, 1.5e-3, 4.5e-3)
SEEDS = (0, 1, 2)
TOKENS_PER_SAMPLE = 512
SAMPLES_PER_SHARD = 4096
LINES_PER_STRETCH = 200
MOST_VALIDATION_TOKENS = 100_000
TEXT = TrainConfig(
    architecture=ARCHITECTURE,
    batch_size=8,
    max_units=TOKENS_PER_SAMPLE,
    peak_lr=2e-3,
    final_lr=2e-4,
    warmup_steps=100,
    schedule="cosine",
    weight_decay=0.1,
    checkpoint_every=200,
    validate_every=200,
    keep_last=1,
    log_every=50,
)
SPEECH = replace(
    TEXT, batch_size=4, max_units=704, warmup_steps=20, validate_every=20, checkpoint_every=60, log_every=20
)


@dataclass(frozen=True)
class Run:
    """A training on speech: how it began, on which share of the units, with which peak rate and seed."""

    start: str
    share: float
    peak_lr: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.start}-{self.share:g}-{self.peak_lr:g}-{self.seed}"


@dataclass(frozen=True)
class Curve:
    """What became of a run: validation perplexity by step, and the folder of its best checkpoint."""

    points: tuple[tuple[int, float], ...]
    checkpoint: str

    @property
    def best(self) -> float:
        return min(perplexity for _, perplexity in self.points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="folder of .txt files of English, a paragraph a line")
    parser.add_argument("--speech", type=Path, nargs="*", default=[], help="folders of recorded speech to add")
    parser.add_argument("--folder", type=Path, default=Path("runs/warm_vs_cold"), help="where all of it is kept")
    parser.add_argument("--hours", type=float, default=3.0, help="speech to synthesize")
    parser.add_argument("--text-tokens", type=float, default=50e6, help="tokens that each text LM sees")
    parser.add_argument(
        "--peak-rates", type=float, nargs="+", default=PEAK_RATES, help="tried for each start and share"
    )
    parser.add_argument("--plot", type=Path, help="where to draw the curves (needs matplotlib)")
    parser.add_argument("--report", action="store_true", help="train nothing: tell what is finished")
    parser.add_argument("--quick", action="store_true", help="tiny, on docs: shows nothing but that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    if not (arguments.quick or arguments.report or arguments.text):
        parser.error("--text is needed: benchmarks/english_text.py makes it")
    quiet_transformers()
    with contextlib.redirect_stdout(sys.stderr):
        experiment = Experiment(arguments)
        if not arguments.report:
            experiment.run()
        figures = experiment.figures()
        if arguments.plot:
            draw(experiment.finished(), arguments.plot)
    if arguments.json:
        print(json.dumps({"ratios": ratios(figures), "figures": figures, "machine": machine()}))
        return
    for name, value in {**figures, **ratios(figures)}.items():
        print(f"{name:44} {value if isinstance(value, list) else f'{value:.6g}'}")


class Experiment:
    """All trainings, in a folder."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.folder: Path = arguments.folder / "quick" if arguments.quick else arguments.folder
        self.speech: list[Path] = [] if arguments.quick else arguments.speech
        self.hours: float = 0.05 if arguments.quick else arguments.hours
        self.text: Path | None = arguments.text
        self.has_benchmarks = not arguments.quick
        self.rates, self.seeds, self.steps = tuple(arguments.peak_rates), SEEDS, STEPS
        self.text_tokens: float = arguments.text_tokens
        if arguments.quick:
            self.rates, self.seeds, self.steps = PEAK_RATES[1:2], SEEDS[:1], {1.0: 2}
            self.text_tokens = TEXT.batch_size * TOKENS_PER_SAMPLE
            self.text = ROOT / "docs"

    def run(self) -> None:
        """Trains whatever is not trained yet, what tells most first."""
        shards = self._tokenized()
        bodies = {name: self._text_lm(name) for name in BODIES}
        for share in self.steps:
            for start in STARTS:
                swept = {
                    rate: self._train(Run(start, share, rate, self.seeds[0]), bodies, shards) for rate in self.rates
                }
                chosen = min(swept, key=lambda rate: swept[rate].best)
                for seed in self.seeds[1:]:
                    self._train(Run(start, share, chosen, seed), bodies, shards)
        if self.has_benchmarks:
            self._hold_to_benchmarks()

    def _train(self, run: Run, bodies: dict[str, str], shards: str) -> Curve:
        steps = self.steps[run.share]
        config = replace(
            SPEECH,
            init=bodies.get(run.start),
            architecture=None if run.start in bodies else ARCHITECTURE,
            data=LoaderConfig(share=run.share),
            num_steps=steps,
            warmup_steps=min(SPEECH.warmup_steps, steps // 3),
            validate_every=max(1, min(SPEECH.validate_every, steps // 6)),
            peak_lr=run.peak_lr,
            final_lr=run.peak_lr / 10,
            seed=run.seed,
        )
        folder = self.folder / "runs" / run.name
        result = train(config, shards, str(folder), tell(run.name))
        (folder / "finished.json").write_text(json.dumps({"checkpoint": result.checkpoint, **vars(run)}))
        return curve_of(folder)

    def finished(self) -> dict[Run, Curve]:
        """All runs that are finished."""
        found = {}
        for path in sorted((self.folder / "runs").glob("*/finished.json")):
            facts = json.loads(path.read_text())
            found[Run(facts["start"], facts["share"], facts["peak_lr"], facts["seed"])] = curve_of(path.parent)
        return found

    def figures(self) -> dict[str, Any]:
        """What is finished: text LMs, perplexities by share and start, and how long the warm ones took."""
        figures: dict[str, Any] = {}
        for name in BODIES:
            metrics = read_metrics(str(self.folder / "text_lm" / name))
            if lines := [line for line in metrics if "validation" in line]:
                facts = json.loads((self.folder / "text" / name / "facts.json").read_text())
                nats = math.log(min(line["validation"]["mean"]["perplexity"] for line in lines))
                figures[f"text_{name}_million_tokens"] = max(line.get("tokens", 0) for line in metrics) / 1e6
                figures[f"text_{name}_bits_per_character"] = nats / math.log(2) / facts["characters_per_token"]
        by_group: dict[tuple[float, str], dict[Run, Curve]] = defaultdict(dict)
        tried = {run: curve for run, curve in self.finished().items() if run.peak_lr in self.rates}
        for run, curve in tried.items():
            by_group[run.share, run.start][run] = curve
        for (share, start), runs in sorted(by_group.items(), key=lambda item: (-item[0][0], STARTS.index(item[0][1]))):
            rate, curves = chosen_of(runs)
            group = f"{start}_{share:.0%}"
            figures |= {
                f"{group}_at_{run.peak_lr:g}": curve.best for run, curve in runs.items() if run.seed == SEEDS[0]
            }
            figures |= {
                f"{group}_peak_lr": rate,
                f"{group}_perplexity": [round(curve.best, 3) for curve in curves],
                f"{group}_perplexity_mean": float(np.mean([curve.best for curve in curves])),
            }
            if len(curves) > 1:
                figures[f"{group}_perplexity_std"] = float(np.std([curve.best for curve in curves], ddof=1))
            mean = mean_curve(curves)
            figures[f"{group}_mean_curve"] = [round(perplexity, 2) for _, perplexity in mean]
            cold = figures.get(f"cold_{share:.0%}_perplexity_mean")
            if start != "cold" and cold is not None:
                reached = [step for step, perplexity in mean if perplexity <= cold]
                figures[f"{group}_steps_to_colds_best"] = reached[0] if reached else -1
        for path in sorted((self.folder / "evaluation").glob("*/*/*.json")):
            for name, figure in json.loads(path.read_text())["figures"].items():
                if name.startswith(("all", "by id")):
                    figures[f"{path.parents[1].name}_{path.stem}_{name}"] = figure["value"]
        return figures

    def _text_lm(self, body: str) -> str:
        """Trains a text LM on one form of the text; its best checkpoint."""
        shards = self.folder / "text" / body
        if not (shards / "facts.json").exists():
            assert self.text is not None
            write_text(shards, self.text, body, self.text_tokens)
        steps = math.ceil(self.text_tokens / TEXT.batch_size / TOKENS_PER_SAMPLE)
        config = replace(
            TEXT,
            num_steps=steps,
            warmup_steps=min(TEXT.warmup_steps, steps // 2),
            validate_every=min(TEXT.validate_every, steps),
        )
        return train(config, str(shards), str(self.folder / "text_lm" / body), tell(body)).checkpoint

    def _tokenized(self) -> str:
        """Makes shards of the units of synthesized and recorded speech."""
        folder = (self.folder / "speech").resolve()
        voices = folder / "voices"
        if not (voices / "corpus.json").exists():
            twist(
                "make-speech", "voices", str(voices), "--speech.hours", str(self.hours), "--speech.test_sentences", "2"
            )
        corpora = [{"kind": "folder", "root": str(voices / "train"), "name": "voices"}]
        for root in self.speech:
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
        twist("run", "--config", str(path), "--run", str(folder / "run"), "--until", "pack")
        return str(folder / "run" / "shards")

    def _hold_to_benchmarks(self) -> None:
        """Scores of the best of each start, on all of the units, on spoken words and sentences."""
        benchmark = (self.folder / "benchmark").resolve()
        twist("make-benchmark", "mini", str(benchmark))
        for start in STARTS:
            runs = {run: curve for run, curve in self.finished().items() if (run.start, run.share) == (start, 1.0)}
            best = min(runs.values(), key=lambda curve: curve.best)
            twist(
                *("evaluate", "swuggy", "sblimp", "--run", str(self.folder / "speech" / "run")),
                *("--checkpoint", best.checkpoint, "--output", str(self.folder / "evaluation" / start)),
                *("--evaluation.swuggy.folder", str(benchmark), "--evaluation.sblimp.folder", str(benchmark)),
            )


def twist(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "jobs", *command], cwd=ROOT, stdout=sys.stderr, check=True)


def write_text(shards: Path, text: Path, body: str, num_tokens: float) -> None:
    """Writes a text as shards whose units are its tokens, as many as are needed, and what was written as facts.json.

    Of each 10,000 lines 200 are kept apart, of which validation takes some.
    """
    lines = [
        line for path in sorted(text.glob("*.[tm][xd]*")) for line in path.read_text().splitlines() if len(line) > 1
    ]
    shards.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(shards / "tokenizer", lines[::5], BPE_PIECES) if body == "bpe" else None
    encode = encoder(shards / "tokenizer", body)
    counts, written = [0, 0], defaultdict(list)
    rows: list[dict[str, Any]] = []
    for split, wanted in (("validation", min(0.1 * num_tokens, MOST_VALIDATION_TOKENS)), ("train", num_tokens)):
        for number, samples in enumerate(samples_of(lines, split, encode, wanted, counts)):
            described, of_shard = write_shard(str(shards), f"{split}/{split}-{number:06d}.tar", samples)
            written[split].append(described)
            rows += of_shard
    info = {
        "num_units": tokenizer or CHARACTERS,
        "frame_rate_hz": 25,
        "codebook": {"fingerprint": body},
        "shards": [*written["train"], *written["validation"]],
    }
    write_index(str(shards), info, rows)
    facts = {"tokens": counts[0], "characters_per_token": counts[1] / counts[0]}
    (shards / "facts.json").write_text(json.dumps(facts))
    print(f"{body}: {facts}", file=sys.stderr)


def encoder(tokenizer: Path, body: str) -> Callable[[list[str]], list[NDArray[np.uint16]]]:
    """What makes tokens of lines: pieces of a BPE, or bytes, in their order or in a random one; each line ends."""
    if body == "bpe":
        from transformers import AutoTokenizer

        pieces = AutoTokenizer.from_pretrained(tokenizer)
        return lambda lines: [
            np.array(ids, np.uint16)
            for ids in pieces([line + "\n" for line in lines], add_special_tokens=False)["input_ids"]
        ]
    generator = np.random.default_rng(0)

    def bytes_of(lines: list[str]) -> list[NDArray[np.uint16]]:
        found = [np.frombuffer(f"{line}\n".encode(), np.uint8).astype(np.uint16) for line in lines]
        return [generator.permutation(each) for each in found] if body == "shuffled" else found

    return bytes_of


def samples_of(
    lines: list[str],
    split: str,
    encode: Callable[[list[str]], list[NDArray[np.uint16]]],
    num_tokens: float,
    counts: list[int],
) -> Iterator[list[Sample]]:
    """Samples of a split by shard: stretches of lines from all over the text, until there are enough tokens.

    Args:
        counts: Number of tokens and of characters, to which those of the samples are added.
    """
    stretches = [lines[first : first + LINES_PER_STRETCH] for first in range(0, len(lines), LINES_PER_STRETCH)]
    is_validation = [number % 50 == 0 for number in range(len(stretches))]
    chosen = [
        each for each, held_out in zip(stretches, is_validation, strict=True) if held_out == (split == "validation")
    ]
    waiting: list[Sample] = []
    taken = 0
    for place in np.random.default_rng(0).permutation(len(chosen)):
        tokens = np.concatenate(encode(chosen[place]))
        counts[0] += len(tokens)
        counts[1] += sum(len(line) + 1 for line in chosen[place])
        for first in range(0, len(tokens) - 1, TOKENS_PER_SAMPLE):
            piece = tokens[first : first + TOKENS_PER_SAMPLE]
            key = f"{taken:09d}"
            durations = np.ones(len(piece), np.uint16)
            waiting.append(Sample(key, key, "prose", str(place), "en", split, 0.0, 1.0, piece, durations))
            taken += len(piece)
        while len(waiting) >= SAMPLES_PER_SHARD:
            yield waiting[:SAMPLES_PER_SHARD]
            waiting = waiting[SAMPLES_PER_SHARD:]
        if taken >= num_tokens:
            break
    if waiting:
        yield waiting


def curve_of(folder: Path) -> Curve:
    lines = read_metrics(str(folder))
    points = [(line["step"], line["validation"]["mean"]["perplexity"]) for line in lines if "validation" in line]
    facts = folder / "finished.json"
    return Curve(tuple(points), json.loads(facts.read_text())["checkpoint"])


def chosen_of(runs: dict[Run, Curve]) -> tuple[float, list[Curve]]:
    """The peak rate that did best with the first seed, and the runs with it, by seed."""
    rate = min((run for run in runs if run.seed == SEEDS[0]), key=lambda run: runs[run].best).peak_lr
    return rate, [runs[run] for run in sorted(runs, key=lambda run: run.seed) if run.peak_lr == rate]


def mean_curve(curves: list[Curve]) -> list[tuple[int, float]]:
    steps = [step for step, _ in curves[0].points]
    values = np.mean([[perplexity for _, perplexity in curve.points] for curve in curves], axis=0)
    return list(zip(steps, map(float, values), strict=True))


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Perplexity from each body over that of a cold start, by share."""
    found = {}
    for share in STEPS:
        cold = figures.get(f"cold_{share:.0%}_perplexity_mean")
        for body in BODIES:
            warm = figures.get(f"{body}_{share:.0%}_perplexity_mean")
            if cold and warm:
                found[f"{body}_vs_cold_{share:.0%}"] = warm / cold
    return found


def tell(name: str) -> Callable[[dict[str, Any]], None]:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "validation":
            perplexity = event["validation"]["mean"]["perplexity"]
            print(f"{name}: step {event['step']}, perplexity {perplexity:.3f}", file=sys.stderr, flush=True)

    return on_event


def draw(runs: dict[Run, Curve], path: Path) -> None:
    """The paper's Figure 2: perplexity against the share of the data, and against steps on all of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    by_share, by_step = figure.subplots(1, 2)
    for number, start in enumerate(STARTS):
        means = []
        for share in sorted(STEPS):
            group = {run: curve for run, curve in runs.items() if (run.start, run.share) == (start, share)}
            if not group:
                continue
            _, curves = chosen_of(group)
            best = [curve.best for curve in curves]
            means.append((share, float(np.mean(best)), float(np.std(best))))
            if share == 1.0:
                by_step.plot(*zip(*mean_curve(curves)[1:], strict=True), color=f"C{number}", label=start)
        if means:
            shares, values, spreads = zip(*means, strict=True)
            by_share.errorbar(shares, values, spreads, marker="o", capsize=3, color=f"C{number}", label=start)
    by_share.set(xscale="log", yscale="log", xlabel="share of the units", ylabel="best validation perplexity")
    by_step.set(yscale="log", xlabel="step, on all of the units", ylabel="validation perplexity")
    by_share.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
