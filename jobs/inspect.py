"""Shows what a person wants to know of a run, or of its manifest, segments, units, shards, codebook or checkpoints."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from jobs.command import guard, quiet_transformers
from jobs.recipe import UsageError
from model.lm.speech_lm import load_speech_lm
from model.training import checkpoint
from model.training.metrics import METRICS, read_metrics
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.inspection import verify
from pipeline.inspection.describe import describe_folder, describe_run, kind_of
from pipeline.inspection.plots import write_plots
from pipeline.inspection.text import as_text


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 2 where --verify finds something wrong."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        quiet_transformers()
        parser = ArgumentParser(prog="twist inspect", description=__doc__, exit_on_error=False)
        parser.add_argument("path", type=str, help="A run, or any folder of one; local or s3://.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object, with everything.")
        parser.add_argument("--verify", action="store_true", help="Check checksums and every invariant of the files.")
        parser.add_argument(
            "--plots",
            type=str | None,
            help="Folder for pictures (PNG) of how often units occur, and of how long samples are.",
        )
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise UsageError(" ".join(str(error).split())) from error
        path = given.path.rstrip("/") if storage.is_s3(given.path) else os.path.normpath(storage.absolute(given.path))
        kind = kind_of(path)
        description: dict[str, Any] = {"path": path, "kind": kind}
        if given.verify:
            description["violations"] = list(dict.fromkeys(violations(path, kind)))
        if not description.get("violations"):  # the figures of damaged files would say nothing
            description |= describe(path, kind)
        if given.plots and not description.get("violations"):
            description["plots"] = write_plots(description, Path(given.plots))
        print(json.dumps(description, indent=2) if given.json else as_text(description))
        if description.get("violations"):
            raise TwistError(f"{path} is damaged: {len(description['violations'])} violations, listed above")

    return guard("inspect", work)


def describe(path: str, kind: str) -> dict[str, Any]:
    """What there is to know of one place, as plain data."""
    if kind == "run":
        description = describe_run(path)
        checkpoints = storage.join(path, "checkpoints")
        if storage.exists(storage.join(checkpoints, METRICS)):
            description["checkpoints"] = _describe_checkpoints(checkpoints)
        return description
    if kind == "checkpoints":
        return _describe_checkpoints(path)
    if kind == "checkpoint":
        return _describe_checkpoint(path)
    return describe_folder(path, kind)


def violations(path: str, kind: str) -> Iterator[str]:
    """What is wrong in one place, a sentence each."""
    if kind == "run":
        return verify.verify_run(path)
    if kind == "checkpoints":
        return _verify_checkpoints([checkpoint.step_folder(path, step) for step in checkpoint.steps(path)])
    if kind == "checkpoint":
        return _verify_checkpoints([path])
    return verify.verify_folder(path, kind)


def _describe_checkpoints(path: str) -> dict[str, Any]:
    steps = checkpoint.steps(path)
    if not steps:
        return {"steps": []}
    progress = checkpoint.load_trainer_state(path, steps[-1])["progress"]
    curve = [
        {"step": line["step"], "perplexity": line["validation"]["mean"]["perplexity"]}
        for line in read_metrics(path)
        if "validation" in line
    ]
    perplexities = {name: progress[name] for name in ("unigram", "initial", "best")}
    return {
        "steps": steps,
        "num_units_seen": progress["num_units_seen"],
        "best_step": progress["best_step"],
        "perplexity": {name: found and found["mean"]["perplexity"] for name, found in perplexities.items()},
        "validation_curve": curve,
    }


def _describe_checkpoint(path: str) -> dict[str, Any]:
    local = checkpoint.fetch(path)
    model, vocabulary = load_speech_lm(str(local))
    state = _trainer_state(local)
    return {
        "architecture": model.config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": vocabulary.as_config(),
        "progress": state and state["progress"],
    }


def _trainer_state(path: Path) -> dict[str, Any] | None:
    """What the trainer keeps beside a model; None for a folder that is not the trainer's."""
    is_ours = path.name.isdigit() and (path / "trainer_state.json").is_file()
    return checkpoint.load_trainer_state(str(path.parent), int(path.name)) if is_ours else None


def _verify_checkpoints(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        try:
            local = checkpoint.fetch(path)
            model, _ = load_speech_lm(str(local))
            _trainer_state(local)
            for name in checkpoint.damaged_files(local):
                yield f"{storage.join(path, name)} is not what was saved"
        except TwistError as error:
            yield str(error)
            continue
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                yield f"{path}: {name} is not finite"


if __name__ == "__main__":
    sys.exit(main())
