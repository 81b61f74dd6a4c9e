"""JSON files of units to speak, as `twist generate` and `twist resynthesize` write them.

A file holds a list of units, or an object with `units` and, where they are known, `durations` (frames),
`frame_rate_hz`, `codebook_fingerprint`, `speaker` and `style`, and `codes`: lists of codes of `pitch` and `style`, at
their own rates where there are durations, else one for each unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import TwistError
from pipeline.files import foreign_json
from pipeline.speaking.units import Units

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Script:
    """Units to speak, and the voice to speak them in.

    Attributes:
        units: With or without durations.
        speaker: A number or a vector, for vocoders of several speakers.
        style: A number, for vocoders of several styles.
        codes: Codes of `pitch` and `style`, for vocoders that take them.
    """

    units: Units
    speaker: int | NDArray[np.float32] | None = None
    style: int | None = None
    codes: dict[str, NDArray[np.uint16]] = field(default_factory=dict)


def read_script(path: Path) -> Script:
    """Reads one file.

    Raises:
        TwistError: it cannot be read, is no JSON, or holds no units.
    """
    try:
        content = foreign_json.parse(path.read_text())
    except OSError as error:
        raise TwistError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TwistError(f"{path} is no JSON file: {error}") from error
    if isinstance(content, list):
        content = {"units": content}
    if not isinstance(content, dict) or not content.get("units"):
        raise TwistError(f"{path} holds no units: a list of them, or an object with `units`")
    durations = content.get("durations")
    try:
        units = Units(
            _counts(content["units"], "units"),
            None if durations is None else _counts(durations, "durations"),
            _frame_rate_hz(content.get("frame_rate_hz")),
            content.get("codebook_fingerprint"),
        )
        codes = _codes(content.get("codes") or {})
    except TwistError as error:
        raise TwistError(f"{path}: {error}") from error
    speaker = content.get("speaker")
    if isinstance(speaker, list):
        speaker = np.array(speaker, np.float32)
    return Script(units, speaker, content.get("style"), codes)


def _codes(content: Any) -> dict[str, NDArray[np.uint16]]:
    if not isinstance(content, dict) or content.keys() - {"pitch", "style"}:
        raise TwistError("its `codes` are no object with lists of `pitch` and `style`")
    return {name: _counts(values, f"codes of {name}") for name, values in content.items()}


def _counts(values: Any, name: str) -> NDArray[np.uint16]:
    is_list = isinstance(values, list) and all(type(value) is int and 0 <= value < 2**16 for value in values)
    if not is_list:
        raise TwistError(f"its {name} are no list of whole numbers from 0 to 65535")
    return np.array(values, np.uint16)


def _frame_rate_hz(value: object) -> float:
    if value is None:
        return 25.0
    if not isinstance(value, int | float) or not 0 < value < 1000:
        raise TwistError(f"`frame_rate_hz` is {value!r}, not a number of frames a second")
    return float(value)
