"""Goes on from a checkpoint: what is restored, and which changes are refused because they would train another model."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from model.training.checkpoint import OPTIMIZER_PREFIX, damage, damaged_file, damaged_files, local_copy
from model.training.checkpoint_steps import step_folder
from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import torch

    from model.training.distributed import Ranks


def fetch_to_resume(folder: str, step: int, ranks: Ranks) -> Path:
    """A local folder with one checkpoint, all of whose files are as they were saved; all processes call this.

    Each machine has its own copy of one on S3, which one process of it checks for all. On a disk that all share, each
    checks a share of the files.

    Raises:
        TwistError: a file is missing or differs, whichever process found it.
        RunError: it cannot be fetched.
    """
    uri = step_folder(folder, step)

    def find_and_check() -> Path:
        local = local_copy(uri, with_optimizer=True)
        share = (0, 1) if storage.is_s3(uri) else (ranks.rank, ranks.world_size)
        if damaged := damaged_files(str(local), *share):
            raise damage(uri, damaged)
        return local

    return ranks.all_or_none(find_and_check)


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restores an optimizer's state from a checkpoint's local folder, whatever the number of processes that saved it.

    Raises:
        TwistError: the state is damaged.
    """
    import safetensors.torch

    from model.training import optimizer_state

    try:
        files = sorted(path.glob(f"{OPTIMIZER_PREFIX}*.safetensors"))
        if not files or not files[0].name.endswith(f"-of-{len(files):05d}.safetensors"):
            raise ValueError("not all of its files are there")
        optimizer_state.put_back(optimizer, [safetensors.torch.load_file(file) for file in files])
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged_file(str(path / "optimizer-*.safetensors")) from error


def refuse_other_settings(before: dict[str, Any], config: Any, section: str, folder: str, step: int) -> None:
    """Refuses to continue a run if changed settings would train another model, or if it is past its end already.

    A setting that the checkpoint does not know, being of an earlier version, had its default.

    A finished training may be given more steps, whatever its schedule: from here on the learning rate is that of the
    schedule over the new number of steps.

    Args:
        before: The settings in the checkpoint: `dataclasses.asdict` after a round trip through JSON.
        config: The current settings, a dataclass whose `changeable` names those that may differ (as `group.name` for a
            setting in a group).
        section: Name of the settings' section in recipes.
        folder: The folder of the run's checkpoints.
        step: Step of the newest checkpoint.

    Raises:
        TwistError: names each setting that differs, with both values.
    """
    groups = [field.name for field in fields(config) if is_dataclass(getattr(config, field.name))]
    before = json.loads(json.dumps(_completed(before, config)))
    then, now = (_flat(settings, groups) for settings in (before, json.loads(json.dumps(asdict(config)))))
    changeable = set(config.changeable)
    if step == before.get("num_steps") and config.num_steps > step:  # a finished training goes on
        changeable.add("num_steps")
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
    if step > config.num_steps:
        raise TwistError(
            f"{folder} has a checkpoint of step {step} already; set {section}.num_steps to that or more, or train into "
            f"another folder"
        )


def refuse_other_clips(before: Sequence[str], now: Sequence[str], folder: str) -> None:
    """Refuses to continue a run on clips or units, given by fingerprints, other than those it was trained on so far.

    Raises:
        TwistError: the fingerprints differ.
    """
    if before != now:
        raise TwistError(
            f"{folder} holds checkpoints that were trained on other clips or units; give the run that they were "
            f"trained on, or train into another folder"
        )


def _completed(settings: dict[str, Any], config: Any) -> dict[str, Any]:
    """Settings of a dataclass, and the defaults of those that are missing."""
    whole = dict(settings)
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and isinstance(settings.get(field.name), dict):
            whole[field.name] = _completed(settings[field.name], value)
        elif field.name not in settings and field.default is not MISSING:
            whole[field.name] = field.default
        elif field.name not in settings and field.default_factory is not MISSING:
            made = field.default_factory()
            whole[field.name] = asdict(made) if is_dataclass(made) and not isinstance(made, type) else made
    return whole


def _flat(settings: dict[str, Any], groups: Collection[str]) -> dict[str, Any]:
    """Flattens groups of settings: `group.name` instead of a nested dict."""
    flat = {name: value for name, value in settings.items() if name not in groups}
    return flat | {f"{group}.{name}": value for group in groups for name, value in settings.get(group, {}).items()}
