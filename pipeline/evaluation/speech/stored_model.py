"""Models in folders that are loaded when they are first needed, on the machine that needs them."""

from __future__ import annotations

import contextlib
import functools
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.foreign_config import read_content, refuse_hostile
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
def loading(what: str, folder: Path) -> Iterator[None]:
    """Around the loading of a model by somebody's library: refuses what is hostile, and tells what is damaged.

    Args:
        what: Says that it cannot be loaded.
        folder: Where it lies; a config.json in it is looked at before the library sees it.

    Raises:
        TwistError: it cannot be loaded.
    """
    try:
        if (folder / "config.json").is_file():
            refuse_hostile(read_content(folder))
        yield
    except TwistError:
        raise
    except pickle.UnpicklingError as error:  # torch's own advice is to let the file run its code
        raise TwistError(f"{what}: its weights are no plain pickle of tensors") from error
    except Exception as error:  # kernels and quantizers that are not installed, and whatever a damaged file leads to
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TwistError(f"{what}: {reason}") from error
