"""The checkpoints of a training, on disk or S3: FOLDER/00001000, one folder for each step that was saved.

On disk a checkpoint is written under another name and then renamed. On S3 it counts once its list of checksums has
replaced the placeholder of that name.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.training.checkpoint import CHECKSUMS, TRAINER_STATE, damaged_file, is_listed, no_checkpoint
from pipeline.errors import TwistError
from pipeline.files import foreign_json, storage

if TYPE_CHECKING:
    from model.training.distributed import Ranks

UNFINISHED_PREFIX = ".saving-"


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


def unfinished_folder(folder: str, step: int) -> str:
    """The folder in which a checkpoint is written; on S3, where nothing can be renamed, its final one."""
    final = step_folder(folder, step)
    return final if storage.is_s3(folder) else str(Path(folder, f"{UNFINISHED_PREFIX}{Path(final).name}"))


def steps(folder: str) -> list[int]:
    """The steps that have a complete checkpoint, ascending."""
    if storage.is_s3(folder):
        begun = (re.fullmatch(rf"(\d{{8,}})/{CHECKSUMS}", name) for name in storage.list_files(folder, CHECKSUMS))
        found = [int(match[1]) for match in begun if match]
        return sorted(step for step in found if is_listed(step_folder(folder, step)))
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
            raise no_checkpoint(unlisted[0])
        return max(steps(folder), default=0)

    return ranks.from_main(ranks.all_or_none(find))


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
        raise damaged_file(path) from error
    if written_at != step:
        raise TwistError(
            f"{path} is that of step {written_at}: give {step_folder(folder, step)} its own name again, or delete it"
        )
    return state


def unlisted_steps(folder: str) -> list[str]:
    """The folders of steps that have no checksums.json, and so are no checkpoints; on S3 those are unfinished."""
    if storage.is_s3(folder) or not Path(folder).is_dir():
        return []
    return sorted(str(path) for path in Path(folder).iterdir() if _is_step(path) and not (path / CHECKSUMS).is_file())


def remove_unfinished(folder: str) -> None:
    """Removes incomplete checkpoints, left by a killed run."""
    if storage.is_s3(folder):
        whole = {f"{step:08d}" for step in steps(folder)}
        files = [name for name in storage.list_files(folder) if re.fullmatch(r"\d{8,}/.+", name)]
        # Placeholders first: a training that was overtaken cannot complete what has lost its.
        for name in sorted(files, key=lambda name: not name.endswith(f"/{CHECKSUMS}")):
            if name.partition("/")[0] not in whole:
                storage.delete(storage.join(folder, name))
        return
    for path in Path(folder).glob(f"{UNFINISHED_PREFIX}*"):
        shutil.rmtree(path)


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
            shutil.rmtree(Path(doomed).rename(unfinished_folder(folder, step)))


def _is_step(path: Path) -> bool:
    return re.fullmatch(r"\d{8,}", path.name) is not None and path.is_dir()
