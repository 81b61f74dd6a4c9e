"""What a voice said for a benchmark, written for people to listen to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.speaking.spoken import write_wav

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.speaking.voice import Voice

WRITTEN_AT_ONCE = 32


def write_wavs(
    folder: Path, names: Sequence[str], speak: Callable[[Sequence[str]], Sequence[NDArray[np.float32]]], voice: Voice
) -> None:
    """Writes `<name>.wav` for each name, with a number before it that keeps their order and keeps them apart.

    Args:
        folder: Is made where it is missing.
        names: Of the items; what cannot stand in a file's name becomes -.
        speak: Gives the wav [S] of each of some names.
        voice: Knows the sample rate.
    """
    for start in range(0, len(names), WRITTEN_AT_ONCE):
        some = names[start : start + WRITTEN_AT_ONCE]
        for number, (name, wav) in enumerate(zip(some, speak(some), strict=True), start):
            stem = re.sub(r"[^\w.-]+", "-", name)[-100:]
            write_wav(folder / f"{number:05d}-{stem}.wav", wav, voice.sample_rate_hz)
