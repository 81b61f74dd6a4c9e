"""Training checkpoints: one folder per step, each appearing under its name only once it is whole.

    FOLDER/00001000/   config.json, model.safetensors   the model, a plain transformers folder
                       optimizer.pt                     AdamW's state
                       trainer_state.json               all else that a resumed run needs
                       checksums.json                   of all these

Random states are not among it: the trainer seeds its generators anew at every step.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

UNFINISHED_PREFIX = ".saving-"
CHECKSUMS = "checksums.json"


def open_folder(uri: str) -> Path:
    """The folder of a run's checkpoints, made where it is not there yet.

    Raises:
        TwistError: it is not a local folder, or cannot be written.
    """
    if uri.startswith("s3://"):
        raise TwistError(f"checkpoints cannot be written to S3 yet ({uri}); give a local folder and copy it afterwards")
    try:
        Path(uri).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TwistError(f"cannot write checkpoints to {uri}: {error.strerror}") from error
    return Path(uri)


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of one step lies."""
    return folder / f"{step:08d}"


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"\d{8,}", path.name))


def best_folder(uri: str) -> Path:
    """The checkpoint with the lowest validation perplexity of a run (its newest one before the first validation).

    Raises:
        TwistError: there is no checkpoint.
    """
    folder = Path(uri)
    found = steps(folder) if folder.is_dir() else []
    if not found:
        raise TwistError(f"{uri} holds no checkpoint; train one with `twist train`, or name a checkpoint's folder")
    best_step = load_trainer_state(folder, found[-1])["progress"]["best_step"]
    return step_folder(folder, best_step or found[-1])


def save(
    folder: Path,
    step: int,
    save_model: Callable[[Path], None],
    optimizer: torch.optim.Optimizer,
    trainer_state: dict[str, Any],
) -> Path:
    """Writes the checkpoint of one step.

    Args:
        folder: The folder of the run's checkpoints.
        step: Updates done so far.
        save_model: Writes the model's own files into a folder.
        optimizer: The model's optimizer.
        trainer_state: What else to keep, as JSON.
    """
    final = step_folder(folder, step)
    unfinished = folder / f"{UNFINISHED_PREFIX}{final.name}"
    unfinished.mkdir()
    save_model(unfinished)
    torch.save(optimizer.state_dict(), unfinished / "optimizer.pt")
    (unfinished / "trainer_state.json").write_text(json.dumps(trainer_state, indent=2) + "\n")
    checksums = {path.name: _sha256(path) for path in sorted(unfinished.iterdir())}
    (unfinished / CHECKSUMS).write_text(json.dumps(checksums, indent=2) + "\n")
    for path in (*unfinished.iterdir(), unfinished):
        _sync(path)
    unfinished.rename(final)
    _sync(folder)
    return final


def load_trainer_state(folder: Path, step: int) -> dict[str, Any]:
    """What `save` kept as JSON.

    Raises:
        TwistError: it is damaged.
    """
    path = step_folder(folder, step) / "trainer_state.json"
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    return state


def refuse_other_settings(before: dict[str, Any], config: Any, changeable: Collection[str], folder: Path) -> None:
    """Refuses to go on with a run that was begun with settings that train another model.

    Args:
        before: The settings of the run so far, as `dataclasses.asdict` gives them and JSON keeps them.
        config: The settings now, a dataclass.
        changeable: Names of the settings that may differ; of one in a group, `group.name`.
        folder: The folder of the run's checkpoints.

    Raises:
        TwistError: names each setting that differs, with both values.
    """
    groups = [field.name for field in fields(config) if is_dataclass(getattr(config, field.name))]
    then, now = (_flat(settings, groups) for settings in (before, json.loads(json.dumps(asdict(config)))))
    changes = [
        f"{name} was {json.dumps(then.get(name))}, is {json.dumps(value)}"
        for name, value in now.items()
        if name not in changeable and then.get(name) != value
    ]
    if changes:
        raise TwistError(
            f"{folder} holds checkpoints of other settings: {'; '.join(changes)}. Set them back, or train into another "
            f"folder"
        )


def _flat(settings: dict[str, Any], groups: Collection[str]) -> dict[str, Any]:
    """Settings with those of each group as `group.name`."""
    flat = {name: value for name, value in settings.items() if name not in groups}
    return flat | {f"{group}.{name}": value for group in groups for name, value in settings.get(group, {}).items()}


def load_optimizer(folder: Path, step: int, optimizer: torch.optim.Optimizer) -> None:
    """Puts an optimizer back into its state after `step`.

    Raises:
        TwistError: the state is damaged.
    """
    path = step_folder(folder, step) / "optimizer.pt"
    try:
        optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise _damaged(path) from error


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed run left half-written."""
    for path in folder.glob(f"{UNFINISHED_PREFIX}*"):
        shutil.rmtree(path)


def prune(folder: Path, keep_last: int, best_step: int | None) -> None:
    """Removes all checkpoints but the newest `keep_last` and the best one."""
    for step in steps(folder)[:-keep_last]:
        if step != best_step:
            # Renamed first, so that a run killed meanwhile leaves no half of it under its name.
            doomed = step_folder(folder, step).rename(folder / f"{UNFINISHED_PREFIX}{step:08d}")
            shutil.rmtree(doomed)


def damaged_files(path: Path) -> list[str]:
    """The files of one checkpoint's folder that are not what was saved.

    Raises:
        TwistError: the list of checksums is missing or damaged.
    """
    try:
        checksums: dict[str, str] = json.loads((path / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        raise TwistError(f"{path / CHECKSUMS} is missing or damaged: {error}") from error
    return [name for name, sha256 in checksums.items() if not (path / name).is_file() or _sha256(path / name) != sha256]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path) -> TwistError:
    return TwistError(f"{path} is missing or damaged; delete {path.parent} to go on from the checkpoint before it")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
