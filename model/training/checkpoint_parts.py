"""Writes a checkpoint in parts, one per process, and completes it once all are there.

On S3 a placeholder is put first, where checksums.json belongs, and the list replaces that one alone. Whoever takes a
folder over removes the placeholders in it, so a training that was overtaken completes nothing, wherever it was paused:
it has put its placeholder before it made sure of its lease, and so before the other one looked for placeholders.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.training.checkpoint import CHECKSUMS, OPTIMIZER_PREFIX, PLACEHOLDER_PREFIX, TRAINER_STATE, checksums_text
from model.training.checkpoint_steps import step_folder, unfinished_folder
from pipeline.errors import TwistError
from pipeline.files import foreign_json, s3, storage
from pipeline.files.checksums import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor


def put_placeholder(folder: str, step: int) -> str | None:
    """Begins a checkpoint.

    Returns:
        The version of the placeholder, to complete the checkpoint with; None on a disk, where there is none.

    Raises:
        TwistError: another training is writing this step, or has written it.
    """
    if not storage.is_s3(folder):
        return None
    uri = storage.join(step_folder(folder, step), CHECKSUMS)
    placeholder = PLACEHOLDER_PREFIX + json.dumps(secrets.token_hex(8)).encode() + b"}"
    s3.put_if_absent(uri, placeholder)
    with contextlib.suppress(FileNotFoundError):
        content, version = s3.read_version(uri)
        if content == placeholder:  # also where the answer to an earlier try was lost
            return version
    raise TwistError(f"another training writes {step_folder(folder, step)}. Let only one training work in {folder}")


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
    place = unfinished_folder(folder, step)
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
        data = storage.read_bytes(storage.join(unfinished_folder(folder, step), _part_name(rank)))
    except FileNotFoundError:
        return None
    checksums: dict[str, str] = foreign_json.parse(data)
    return checksums


def commit(folder: str, step: int, parts: Collection[dict[str, str] | None], placeholder: str | None) -> str:
    """Completes a checkpoint whose parts have all been written; returns its folder.

    Args:
        folder: The folder of the run's checkpoints.
        step: Updates done so far.
        parts: The checksums of each process's files.
        placeholder: As `put_placeholder` returned it.

    Raises:
        TwistError: files of it, or its placeholder, are gone.
    """
    place, final = unfinished_folder(folder, step), step_folder(folder, step)
    checksums = {name: sha256 for part in parts if part is not None for name, sha256 in part.items()}
    for rank in range(len(parts)):
        storage.delete(storage.join(place, _part_name(rank)))
    if gone := sorted(checksums.keys() - set(storage.list_files(place))):
        raise TwistError(
            f"{final} cannot be completed: {', '.join(gone)} was removed after it was written. Let only one training "
            f"work in {folder}"
        )
    uri, content = storage.join(place, CHECKSUMS), checksums_text(checksums).encode()
    if placeholder is not None:
        if not s3.put_if_unchanged(uri, content, placeholder):
            raise TwistError(
                f"{final} was not completed: another training has taken {folder} over. Train on once no other does"
            )
        return final
    storage.write_bytes(uri, content)
    _sync(Path(place))
    Path(place).rename(final)
    _sync(Path(folder))
    return final


def give_up(folder: str, step: int) -> None:
    """Removes what was written of a local checkpoint that cannot be completed; on S3 the next start does."""
    if not storage.is_s3(folder):
        shutil.rmtree(unfinished_folder(folder, step), ignore_errors=True)


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


def _part_name(rank: int) -> str:
    return f"part-{rank:05d}.json"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
