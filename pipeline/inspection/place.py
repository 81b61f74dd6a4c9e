"""Describes and verifies whatever lies at one place: a run, one of its folders, or checkpoints of a speech LM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.lm.speech_lm import load_speech_lm
from model.training import checkpoint
from model.training.metrics import METRICS, read_metrics
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.inspection import verify
from pipeline.inspection.describe import describe_folder, describe_run


def describe_place(path: str, kind: str) -> dict[str, Any]:
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


def verify_place(path: str, kind: str) -> Iterator[str]:
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
