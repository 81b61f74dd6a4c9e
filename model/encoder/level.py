"""Scales clips to one level before they are encoded, so that units do not depend on how loud a recording is.

A Hugging Face folder's preprocessor_config.json may have `level_dbfs`: the level that the codebook of such a model was
fitted at, as `hubert-tiny-25hz` does. Other people's models have none, and are given the audio as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from model.artefacts import local_path
from model.official_files import ARTEFACTS
from pipeline.errors import TwistError
from pipeline.files import foreign_json

if TYPE_CHECKING:
    from torch import Tensor

    from model.encoder.config import EncoderConfig

PREPROCESSOR = "preprocessor_config.json"
LEVEL = "level_dbfs"
# Clips below this are amplified as if they had it, so that the noise of digital silence does not become loud.
LOWEST_DBFS = -80.0
HIGHEST_DBFS = 0.0


def level_dbfs_of(config: EncoderConfig) -> float | None:
    """The level that an encoder scales clips to; None if it takes them as they are. Loads no weights.

    Raises:
        TwistError: the checkpoint's level is no number from LOWEST_DBFS to HIGHEST_DBFS.
    """
    if config.level_dbfs is not None:
        return None if config.level_dbfs == "unchanged" else float(config.level_dbfs)
    if config.normalize or config.path is None or config.path in ARTEFACTS:
        return None  # no published file has a level, and none is downloaded to find that
    path = local_path(config.path) / PREPROCESSOR
    try:
        content = foreign_json.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whoever loads the model says what is wrong with it
        return None
    level = content.get(LEVEL) if isinstance(content, dict) else None
    if level is None:
        return None
    if not is_level(level):
        raise TwistError(f"{path} has {LEVEL} {level!r}; it must be a number from {LOWEST_DBFS:g} to {HIGHEST_DBFS:g}")
    return float(level)


def is_level(value: object) -> bool:
    """Whether a value can be a level to scale to."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and LOWEST_DBFS <= float(value) <= HIGHEST_DBFS  # type: ignore[arg-type]


def dbfs(wav: Tensor) -> float:
    """The level of a clip [S]: its root mean square about its mean, in dB below full scale; -inf for silence."""
    power = float(wav.double().var(correction=0)) if len(wav) else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def at_level(wav: Tensor, level_dbfs: float) -> Tensor:
    """A clip [S], scaled to a level as a whole; one below LOWEST_DBFS as if it had that."""
    gain_db = level_dbfs - max(dbfs(wav), LOWEST_DBFS)
    return wav * 10 ** (gain_db / 20)
