"""Training checkpoints, on disk or S3: one folder per step, which counts only once it is complete.

    FOLDER/00001000/   config.json, model*.safetensors          the model, a plain transformers folder
                       optimizer-00000-of-00008.safetensors     AdamW's state, one file per process
                       trainer_state.json                       everything else that a resumed run needs
                       checksums.json                           sha256 of all these files, written last

A folder without its checksums.json is no checkpoint. On disk it is written under another name and then renamed; on S3
it counts once it has that file. Whoever reads a checkpoint holds its files to the list first: `fetch` for its model,
`fetch_to_resume` for all of it. No random states are saved, because the trainer reseeds its generators at every step.

torch is imported only where tensors are read or written, so that `twist inspect` lists checkpoints without it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from model.training.metrics import METRICS
from pipeline.errors import TwistError
from pipeline.files import foreign_json, machine_cache, storage
from pipeline.files.checksums import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import torch
    from torch import Tensor

    from model.training.distributed import Ranks

UNFINISHED_PREFIX = ".saving-"
CHECKSUMS = "checksums.json"
TRAINER_STATE = "trainer_state.json"
OPTIMIZER_PREFIX = "optimizer-"


def open_folder(uri: str) -> str:
    """Creates the folder of a run's checkpoints if it is local and missing; returns its URI.

    Raises:
        TwistError: the folder cannot be created.
    """
    if not storage.is_s3(uri):
        try:
            Path(uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TwistError(f"cannot write checkpoints to {uri}: {error.strerror}") from error
    return uri


def step_folder(folder: str, step: int) -> str:
    """The folder of one step's checkpoint."""
    return storage.join(folder, f"{step:08d}")


def steps(folder: str) -> list[int]:
    """The steps that have a complete checkpoint, ascending."""
    if storage.is_s3(folder):
        whole = (re.fullmatch(rf"(\d{{8,}})/{CHECKSUMS}", name) for name in storage.list_files(folder, CHECKSUMS))
        return sorted(int(found[1]) for found in whole if found)
    if not Path(folder).is_dir():
        return []
    return sorted(int(path.parent.name) for path in Path(folder).glob(f"*/{CHECKSUMS}") if _is_step(path.parent))


def newest_step(folder: str, ranks: Ranks) -> int:
    """The step of the newest checkpoint, or 0 if there is none; all processes call this when a run starts.

    Incomplete checkpoints, left by a killed run, are removed first.

    Raises:
        TwistError: a local step's folder has lost its checksums.json.
    """

    def find() -> int:
        if not ranks.is_main:
            return 0
        remove_unfinished(folder)
        if unlisted := unlisted_steps(folder):
            raise _unlisted(unlisted[0])
        return max(steps(folder), default=0)

    return ranks.from_main(ranks.all_or_none(find))


def unlisted_steps(folder: str) -> list[str]:
    """The folders of steps that have no checksums.json, and so are no checkpoints; on S3 those are unfinished."""
    if storage.is_s3(folder) or not Path(folder).is_dir():
        return []
    return sorted(str(path) for path in Path(folder).iterdir() if _is_step(path) and not (path / CHECKSUMS).is_file())


def best_folder(folder: str) -> str:
    """The folder of a run's checkpoint with the lowest validation perplexity (of the newest, before any validation).

    Raises:
        TwistError: there is no checkpoint.
    """
    found = steps(folder)
    if not found:
        raise TwistError(f"{folder} holds no checkpoint; train one with `twist train`, or name a checkpoint's folder")
    best_step = load_trainer_state(folder, found[-1])["progress"]["best_step"]
    return step_folder(folder, best_step or found[-1])


def fetch(path: str) -> Path:
    """A local folder with one checkpoint, for use of its model: the folder itself, or this machine's copy of one on S3.

    Raises:
        TwistError: as `checked`; or there is no such folder on S3.
        RunError: it cannot be fetched.
    """
    return checked(local_copy(path), path)


def fetch_to_resume(folder: str, step: int, ranks: Ranks) -> Path:
    """A local folder with one checkpoint, all of whose files are as they were saved; all processes call this.

    Each machine has its own copy of one on S3, so each process checks all that it reads. On a disk that all share, each
    checks a share of the files.

    Raises:
        TwistError: a file is missing or differs, whichever process found it.
        RunError: it cannot be fetched.
    """
    uri = step_folder(folder, step)

    def find_and_check() -> Path:
        local = local_copy(uri)
        share = (0, 1) if storage.is_s3(uri) else (ranks.rank, ranks.world_size)
        if damaged := damaged_files(str(local), *share):
            raise damage(uri, damaged)
        return local

    return ranks.all_or_none(find_and_check)


def checked(local: Path, path: str = "") -> Path:
    """The folder of a model (or its file), each file of which but the optimizer's is as it was saved.

    A model from elsewhere has no checksums.json, and is taken as it is; what has one may lack files of it (one that was
    published has perhaps no optimizer), but none may differ.

    Args:
        local: On this machine.
        path: Where it was copied from, if it was.

    Raises:
        TwistError: a file differs from what was saved, or it is a step of a trainer without its checksums.json.
    """
    path = path or str(local)
    if not (local / CHECKSUMS).is_file():
        if _is_trainers(path):
            raise _unlisted(path)
        return local
    try:
        checksums = _read_checksums(str(local))
    except (OSError, ValueError) as error:
        raise damage(path, [CHECKSUMS]) from error
    used = [name for name in checksums if not name.startswith(OPTIMIZER_PREFIX) and (local / name).exists()]
    if damaged := [name for name in used if sha256_of(str(local / name)) != checksums[name]]:
        raise damage(path, damaged)
    return local


def local_copy(path: str) -> Path:
    """A local folder with a checkpoint's files: the folder itself, or this machine's copy of one on S3."""
    return machine_cache.copy_of(path) if storage.is_s3(path) else Path(path)


def write_part(
    folder: str,
    step: int,
    rank: int,
    world_size: int,
    optimizer_piece: Mapping[str, Tensor],
    save_model: Callable[[Path], None] | None = None,
    trainer_state: Mapping[str, Any] | None = None,
) -> None:
    """Writes one process's part of a checkpoint, and last its checksums, which show that the part is complete.

    Args:
        folder: The folder of the run's checkpoints.
        step: Updates done so far.
        rank: This process.
        world_size: Number of processes that write parts.
        optimizer_piece: This process's part of the optimizer state.
        save_model: Writes the model's own files into a folder; given in one process only.
        trainer_state: Content of trainer_state.json; given in the same process only.
    """
    place = _unfinished(folder, step)
    if storage.is_s3(folder):
        with tempfile.TemporaryDirectory() as local:
            checksums = _write_files(Path(local), rank, world_size, optimizer_piece, save_model, trainer_state)
            for name in checksums:
                storage.write_bytes(storage.join(place, name), Path(local, name).read_bytes())
    else:
        Path(place).mkdir(exist_ok=True)
        # In a folder of its own, where the process lists its files without those of the others.
        part = Path(place, f"part-{rank:05d}")
        part.mkdir()
        checksums = _write_files(part, rank, world_size, optimizer_piece, save_model, trainer_state)
        for name in checksums:
            _sync(part / name)
            (part / name).rename(Path(place, name))
        part.rmdir()
    storage.write_bytes(storage.join(place, _part_name(rank)), json.dumps(checksums).encode())


def read_part_checksums(folder: str, step: int, rank: int) -> dict[str, str] | None:
    """The checksums of one process's part; None while it is not complete."""
    try:
        data = storage.read_bytes(storage.join(_unfinished(folder, step), _part_name(rank)))
    except FileNotFoundError:
        return None
    checksums: dict[str, str] = foreign_json.parse(data)
    return checksums


def commit(folder: str, step: int, parts: Collection[dict[str, str] | None]) -> str:
    """Completes a checkpoint whose parts have all been written; returns its folder.

    Raises:
        TwistError: files of it are gone.
    """
    place, final = _unfinished(folder, step), step_folder(folder, step)
    checksums = {name: sha256 for part in parts if part is not None for name, sha256 in part.items()}
    for rank in range(len(parts)):
        storage.delete(storage.join(place, _part_name(rank)))
    if gone := sorted(checksums.keys() - set(storage.list_files(place))):
        raise TwistError(
            f"{final} cannot be completed: {', '.join(gone)} was removed after it was written. Let only one training "
            f"work in {folder}"
        )
    storage.write_bytes(storage.join(place, CHECKSUMS), _checksums_text(checksums).encode())
    if not storage.is_s3(folder):
        _sync(Path(place))
        Path(place).rename(final)
        _sync(Path(folder))
    return final


def load_trainer_state(folder: str, step: int) -> dict[str, Any]:
    """The content of one step's trainer_state.json.

    Raises:
        TwistError: the file is missing or damaged, or that of another step.
    """
    path = storage.join(step_folder(folder, step), TRAINER_STATE)
    try:
        state: dict[str, Any] = foreign_json.parse(storage.read_bytes(path))
        written_at = state["progress"]["step"]
        state["config"], state["progress"]["best_step"]
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path) from error
    if written_at != step:
        raise TwistError(
            f"{path} is that of step {written_at}: give {step_folder(folder, step)} its own name again, or delete it"
        )
    return state


def refuse_other_settings(before: dict[str, Any], config: Any, section: str, folder: str, step: int) -> None:
    """Refuses to continue a run if changed settings would train another model, or if it is past its end already.

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


def damage(uri: str, names: Sequence[str]) -> TwistError:
    """The error for a checkpoint of which these files are damaged."""
    return TwistError(f"{uri} is damaged ({', '.join(names)}); delete it to go on from the one before it")


def _flat(settings: dict[str, Any], groups: Collection[str]) -> dict[str, Any]:
    """Flattens groups of settings: `group.name` instead of a nested dict."""
    flat = {name: value for name, value in settings.items() if name not in groups}
    return flat | {f"{group}.{name}": value for group in groups for name, value in settings.get(group, {}).items()}


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
        raise _damaged(str(path / "optimizer-*.safetensors")) from error


def remove_unfinished(folder: str) -> None:
    """Removes incomplete checkpoints, left by a killed run."""
    if storage.is_s3(folder):
        whole = {f"{step:08d}" for step in steps(folder)}
        for name in storage.list_files(folder):
            step = name.partition("/")[0]
            if re.fullmatch(r"\d{8,}/.+", name) and step not in whole:
                storage.delete(storage.join(folder, name))
        return
    for path in Path(folder).glob(f"{UNFINISHED_PREFIX}*"):
        shutil.rmtree(path)


def give_up(folder: str, step: int) -> None:
    """Removes what was written of a local checkpoint that cannot be completed; on S3 the next start does."""
    if not storage.is_s3(folder):
        shutil.rmtree(_unfinished(folder, step), ignore_errors=True)


def prune(folder: str, keep_last: int, best_step: int | None) -> None:
    """Removes all checkpoints except the newest `keep_last` and the best one."""
    for step in steps(folder)[:-keep_last]:
        if step == best_step:
            continue
        doomed = step_folder(folder, step)
        if storage.is_s3(folder):
            # Checksums first, so that a run killed here leaves nothing that counts as a checkpoint.
            for name in (CHECKSUMS, *storage.list_files(doomed)):
                storage.delete(storage.join(doomed, name))
        else:
            shutil.rmtree(Path(doomed).rename(_unfinished(folder, step)))


def damaged_files(folder: str, rank: int = 0, world_size: int = 1) -> list[str]:
    """The names of a checkpoint's files that are missing or differ from what was saved, its checksums.json included.

    Args:
        folder: The checkpoint's folder, local or s3://; there every byte is read.
        rank: This process, of `world_size` that look at a share of the files each.
        world_size: The processes that share the work.
    """
    try:
        checksums = _read_checksums(folder)
    except (FileNotFoundError, ValueError):
        return [CHECKSUMS]
    mine = list(checksums.items())[rank::world_size]
    return [name for name, sha256 in mine if not _is_as_saved(storage.join(folder, name), sha256)]


def _is_as_saved(uri: str, sha256: str) -> bool:
    try:
        return sha256_of(uri) == sha256
    except FileNotFoundError:
        return False


def _read_checksums(folder: str) -> dict[str, str]:
    """The sha256 of each of a checkpoint's files by name; a ValueError if the list is damaged."""
    content = storage.read_bytes(storage.join(folder, CHECKSUMS))
    checksums: dict[str, str] = foreign_json.parse(content)
    # Also where a damaged bit leaves JSON that says the same.
    if not isinstance(checksums, dict) or content != _checksums_text(checksums).encode():
        raise ValueError("it is not as it was written")
    return checksums


def _checksums_text(checksums: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(checksums.items())), indent=2) + "\n"


def _write_files(
    folder: Path,
    rank: int,
    world_size: int,
    optimizer_piece: Mapping[str, Tensor],
    save_model: Callable[[Path], None] | None,
    trainer_state: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Writes one process's files; returns their checksums by name."""
    from model import weights_file

    weights_file.save(optimizer_piece, folder / f"{OPTIMIZER_PREFIX}{rank:05d}-of-{world_size:05d}.safetensors")
    if save_model is not None:
        save_model(folder)
        weights_file.share_as_usual(*folder.glob("*.safetensors"))  # transformers wrote the model's
    if trainer_state is not None:
        (folder / TRAINER_STATE).write_text(json.dumps(trainer_state, indent=2) + "\n")
    return {path.name: sha256_of(str(path)) for path in sorted(folder.iterdir())}


def _unfinished(folder: str, step: int) -> str:
    """The folder in which a checkpoint is written; on S3, where nothing can be renamed, its final one."""
    final = step_folder(folder, step)
    return final if storage.is_s3(folder) else str(Path(folder, f"{UNFINISHED_PREFIX}{Path(final).name}"))


def _part_name(rank: int) -> str:
    return f"part-{rank:05d}.json"


def _damaged(path: str) -> TwistError:
    step = path.rpartition("/")[0]
    return TwistError(f"{path} is missing or damaged; delete {step} to go on from the checkpoint before it")


def _is_step(path: Path) -> bool:
    return re.fullmatch(r"\d{8,}", path.name) is not None and path.is_dir()


def _is_trainers(path: str) -> bool:
    """Whether a folder lies where a trainer writes its checkpoints."""
    folder, _, name = storage.absolute(path).rstrip("/").rpartition("/")
    return re.fullmatch(r"\d{8,}", name) is not None and storage.exists(storage.join(folder, METRICS))


def _unlisted(path: str) -> TwistError:
    return TwistError(f"{path} is no checkpoint, for its {CHECKSUMS} is missing; put that back, or delete the folder")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
