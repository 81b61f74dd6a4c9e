"""A checkpoint: a folder that counts only once it is complete, and is held to its list of checksums before it is used.

    00001000/   config.json, model*.safetensors          the model, a plain transformers folder
                optimizer-00000-of-00008.safetensors     AdamW's state, one file per process
                trainer_state.json                       everything else that a resumed run needs
                checksums.json                           sha256 of all these files, written last

A folder without its checksums.json is no checkpoint. `fetch` holds a model's files to the list, `damaged_files` all of
them. No random states are saved, because the trainer reseeds its generators at every step.

checkpoint_steps.py says where a training's checkpoints lie, checkpoint_parts.py writes them, and resumption.py goes on
from one. torch is imported only where tensors are read or written: `twist inspect` lists checkpoints without it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from model.training.metrics import METRICS
from pipeline.errors import TwistError
from pipeline.files import foreign_json, machine_cache, storage
from pipeline.files.checksums import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHECKSUMS = "checksums.json"
TRAINER_STATE = "trainer_state.json"
OPTIMIZER_PREFIX = "optimizer-"
# What checksums.json begins with on S3 until its checkpoint is complete: a list of checksums begins otherwise.
PLACEHOLDER_PREFIX = b'{"being_written_by": '


def fetch(path: str) -> Path:
    """A local folder with one checkpoint, for use of its model: the folder itself, or this machine's copy of one on S3.

    Of one on S3 everything is fetched but the optimizer's files.

    Raises:
        TwistError: as `checked`; or there is no such folder on S3.
        RunError: it cannot be fetched.
    """
    return checked(local_copy(path), path)


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
    if not is_listed(str(local)):
        if _is_trainers(path):
            raise no_checkpoint(path)
        return local
    try:
        checksums = _read_checksums(str(local))
    except (OSError, ValueError) as error:
        raise damage(path, [CHECKSUMS]) from error
    used = [name for name in checksums if not name.startswith(OPTIMIZER_PREFIX) and (local / name).exists()]
    if damaged := _differing(str(local), {name: checksums[name] for name in used}):
        raise damage(path, damaged)
    return local


def is_listed(uri: str) -> bool:
    """Whether a folder, local or s3://, has its list of checksums, and so is a complete checkpoint."""
    try:
        return not storage.read_bytes(storage.join(uri, CHECKSUMS)).startswith(PLACEHOLDER_PREFIX)
    except FileNotFoundError:
        return False


def local_copy(path: str, *, with_optimizer: bool = False) -> Path:
    """A local folder with a checkpoint's files: the folder itself, or this machine's copy of one on S3.

    Args:
        path: The checkpoint's folder.
        with_optimizer: Whether the optimizer's files are to be fetched, too.
    """
    if not storage.is_s3(path):
        return Path(path)
    return machine_cache.copy_of(path, leave_out=None if with_optimizer else OPTIMIZER_PREFIX)


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
    return _differing(folder, dict(list(checksums.items())[rank::world_size]))


def damage(uri: str, names: Sequence[str]) -> TwistError:
    """The error for a checkpoint of which these files are damaged."""
    is_step = re.fullmatch(r"\d{8,}", uri.rstrip("/").rpartition("/")[2]) is not None
    cure = "delete it to go on from the one before it" if is_step else "fetch it or make it anew"
    return TwistError(f"{uri} is damaged ({', '.join(names)}); {cure}")


def damaged_file(path: str) -> TwistError:
    """The error for one file without which a training cannot go on from a checkpoint."""
    step = path.rpartition("/")[0]
    return TwistError(f"{path} is missing or damaged; delete {step} to go on from the checkpoint before it")


def no_checkpoint(path: str) -> TwistError:
    """The error for the folder of a step that lacks its list of checksums."""
    return TwistError(f"{path} is no checkpoint, for its {CHECKSUMS} is missing; put that back, or delete the folder")


def _read_checksums(folder: str) -> dict[str, str]:
    """The sha256 of each of a checkpoint's files by name; a ValueError if the list is damaged."""
    content = storage.read_bytes(storage.join(folder, CHECKSUMS))
    checksums: dict[str, str] = foreign_json.parse(content)
    # Also where a damaged bit leaves JSON that says the same.
    if not isinstance(checksums, dict) or content != checksums_text(checksums).encode():
        raise ValueError("it is not as it was written")
    return checksums


def checksums_text(checksums: Mapping[str, str]) -> str:
    """The content of checksums.json, for the sha256 of each file by name."""
    return json.dumps(dict(sorted(checksums.items())), indent=2) + "\n"


def _differing(folder: str, checksums: Mapping[str, str]) -> list[str]:
    """The names of files that are missing or have another sha256 than here."""
    # What this machine's copy of a folder on S3 was held to a moment ago is not read once more.
    found = {} if storage.is_s3(folder) else machine_cache.sha256_in(Path(folder))

    def is_as_saved(name: str) -> bool:
        try:
            return (found.get(name) or sha256_of(storage.join(folder, name))) == checksums[name]
        except FileNotFoundError:
            return False

    return [name for name in checksums if not is_as_saved(name)]


def _is_trainers(path: str) -> bool:
    """Whether a folder lies where a trainer writes its checkpoints."""
    folder, _, name = storage.absolute(path).rstrip("/").rpartition("/")
    return re.fullmatch(r"\d{8,}", name) is not None and storage.exists(storage.join(folder, METRICS))
