"""Models in folders that are loaded when they are first needed, on the machine that needs them."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from model.training import checkpoint
from model.weights_file import fingerprint_of_files
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from model.device import Device


@dataclass(frozen=True)
class StoredModel:
    """A model that others made, not loaded yet.

    Attributes:
        source: Its folder, local or s3://; each machine has its own copy of one on S3.
        device: Where it runs.
    """

    source: str
    device: Device

    @property
    def folder(self) -> Path:
        """Its folder on this machine."""
        return checkpoint.fetch(self.source)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all its files, tokenizer and all."""
        return fingerprint_of_files(self.folder)


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Around the loading of a model by somebody's library: what such libraries raise on files that are damaged.

    Raises:
        TwistError: it cannot be loaded, which `what` says.
    """
    try:
        yield
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise TwistError(f"{what}: {error}") from error
