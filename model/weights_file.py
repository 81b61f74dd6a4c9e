"""Tensors as safetensors files, with the permissions that any other new file gets.

The library makes its files their owner's alone, whatever the umask; a run's checkpoints are for all who can read it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch

from model.training.checkpoint import OPTIMIZER_PREFIX
from pipeline.errors import TwistError
from pipeline.files.checksums import sha256_of_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors on the CPU by name into a file; whoever may read a new file of this process may read it."""
    safetensors.torch.save_file(dict(tensors), path, metadata)
    share_as_usual(path)


def refuse_not_finite(weights: Mapping[str, Tensor], source: object) -> None:
    """Refuses weights with NaN or infinite values: what such a model tells is nothing, and often looks like something.

    Raises:
        TwistError: there are some in what lies at `source`.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise TwistError(f"{source} holds values in {name} that are not finite: take another checkpoint")


def fingerprint_of_folder(folder: Path) -> str:
    """A hash of a model's config.json and weights, in a folder of transformers' layout."""
    weights = (path for pattern in WEIGHTS for path in folder.glob(pattern))
    return sha256_of_files([folder / "config.json", *weights])


def fingerprint_of_files(path: Path) -> str:
    """A hash of a file, or of all files that lie in a folder: a model of any layout, with its tokenizer.

    Not of its optimizer's, which a copy of a checkpoint need not have.
    """
    if not path.is_dir():
        return sha256_of_files([path])
    return sha256_of_files(one for one in path.iterdir() if one.is_file() and not one.name.startswith(OPTIMIZER_PREFIX))


def share_as_usual(*paths: Path) -> None:
    """Gives files, all in one folder, the permissions that a new file in it gets."""
    if not paths:
        return
    # Looked at, since asking for the umask means to change it, for all threads.
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".mode-") as folder:
        new = Path(folder, "new")
        new.touch()
        mode = new.stat().st_mode & 0o777
    for path in paths:
        path.chmod(mode)
