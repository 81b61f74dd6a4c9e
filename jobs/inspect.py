"""Shows what a person wants to know of a run, or of its manifest, segments, units, shards, codebook or checkpoints."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from jobs.command import guard
from jobs.recipe import UsageError
from model import checkpoint
from model.metrics import read_metrics
from model.speech_lm import load_speech_lm
from pipeline import report, storage, verify
from pipeline.errors import TwistError

# What only a program wants to read.
ONLY_IN_JSON = frozenset({"unit_histogram", "config", "versions"})
BAR_WIDTH = 40


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 2 where --verify finds something wrong."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        parser = ArgumentParser(prog="twist inspect", description=__doc__, exit_on_error=False)
        parser.add_argument("path", type=str, help="A run, or any folder of one; local or s3://.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object, with everything.")
        parser.add_argument("--verify", action="store_true", help="Check checksums and every invariant of the files.")
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise UsageError(" ".join(str(error).split())) from error
        kind = report.kind_of(given.path)
        description = {"kind": kind, **describe(given.path, kind)}
        if given.verify:
            description["violations"] = list(violations(given.path, kind))
        print(json.dumps(description, indent=2) if given.json else text(description))
        if description.get("violations"):
            raise TwistError(f"{given.path} is damaged: {len(description['violations'])} violations, listed above")

    return guard("inspect", work)


def describe(path: str, kind: str) -> dict[str, Any]:
    """What there is to know of one place, as plain data."""
    if kind == "run":
        description = report.describe_run(path)
        checkpoints = storage.join(path, "checkpoints")
        if not storage.is_s3(path) and Path(checkpoints).is_dir():
            description["checkpoints"] = _describe_checkpoints(checkpoints)
        return description
    if kind == "checkpoints":
        return _describe_checkpoints(path)
    if kind == "checkpoint":
        return _describe_checkpoint(path)
    if kind == "shards":
        return report.describe_shards(path)
    return report.describe_stage(*_run_and_stage(path))


def violations(path: str, kind: str) -> Iterator[str]:
    """What is wrong in one place, a sentence each."""
    if kind == "run":
        return verify.verify_run(path)
    if kind == "shards":
        return verify.verify_shards(path)
    if kind in ("checkpoint", "checkpoints"):
        return _verify_checkpoints([path] if kind == "checkpoint" else sorted(map(str, Path(path).glob("[0-9]*"))))
    return verify.verify_stage(*_run_and_stage(path))


def _run_and_stage(path: str) -> tuple[str, str]:
    run, _, name = storage.absolute(path).rstrip("/").rpartition("/")
    return run, name


def _describe_checkpoints(path: str) -> dict[str, Any]:
    folder = Path(path)
    steps = checkpoint.steps(folder)
    if not steps:
        return {"steps": []}
    progress = checkpoint.load_trainer_state(folder, steps[-1])["progress"]
    curve = [
        {"step": line["step"], "perplexity": line["validation"]["mean"]["perplexity"]}
        for line in read_metrics(folder)
        if "validation" in line
    ]
    return {
        "steps": steps,
        "num_units_seen": progress["num_units_seen"],
        "best_step": progress["best_step"],
        "perplexity": {name: progress[name] and progress[name]["mean"]["perplexity"] for name in ("unigram", "initial", "best")},
        "validation_curve": curve,
    }


def _describe_checkpoint(path: str) -> dict[str, Any]:
    model, vocabulary = load_speech_lm(path)
    return {
        "architecture": model.config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": vocabulary.as_config(),
        "trainer_state": checkpoint.load_trainer_state(Path(path).parent, int(Path(path).name))["progress"]
        if Path(path, "trainer_state.json").is_file()
        else None,
    }


def _verify_checkpoints(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        try:
            model, _ = load_speech_lm(path)
        except TwistError as error:
            yield str(error)
            continue
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                yield f"{path}: {name} is not finite"


def text(description: dict[str, Any]) -> str:
    """A description for a person to read: one indented line a figure, the histogram of units as bars."""
    return "\n".join(_lines(description, ""))


def _lines(value: dict[str, Any], indent: str) -> Iterator[str]:
    for key, item in value.items():
        if key == "unit_histogram":
            yield f"{indent}units by frequency, the {BAR_WIDTH} bars from the most to the least frequent:"
            yield f"{indent}  {_bars(item)}"
        if key in ONLY_IN_JSON:
            continue
        if isinstance(item, dict) and item and any(isinstance(inner, dict | list) for inner in item.values()):
            yield f"{indent}{key}"
            yield from _lines(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            yield f"{indent}{key}"
            yield from (f"{indent}  {_inline(row)}" for row in item)
        else:
            yield f"{indent}{key}: {_inline(item)}"


def _inline(item: Any) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{key} {_inline(inner)}" for key, inner in item.items()) or "none"
    if isinstance(item, list):
        return ", ".join(map(_inline, item)) or "none"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        return f"{item:,.0f}" if abs(item) >= 1000 else f"{item:.4g}"
    return "none" if item is None else str(item)


def _bars(counts: list[int]) -> str:
    ordered = sorted(counts, reverse=True)
    groups = [ordered[i * len(ordered) // BAR_WIDTH : (i + 1) * len(ordered) // BAR_WIDTH] for i in range(BAR_WIDTH)]
    heights = [sum(group) / len(group) if group else 0.0 for group in groups]
    top = max(heights) or 1.0
    return "".join(" ▁▂▃▄▅▆▇█"[min(8, round(8 * height / top))] for height in heights)


if __name__ == "__main__":
    sys.exit(main())
