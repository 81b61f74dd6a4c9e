"""The units of clips as others read them: lines of JSON, or a pair of .npy files for each clip."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.speaking.clips import read_in_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pipeline.speaking.clips import Clip
    from pipeline.speaking.tokenizer import Tokenizer
    from pipeline.speaking.units import Units


def tokenize_clips(
    clips: Sequence[Clip], tokenizer: Tokenizer, warn: Callable[[str], None]
) -> Iterator[tuple[Clip, Units]]:
    """The units of each clip that can be used; they do not depend on the others.

    Raises:
        TwistError: none can be used; where there is only one clip, this says why.
    """
    for group in read_in_groups(clips, tokenizer, warn):
        units = tokenizer.of_wavs([wav for _, wav in group])
        yield from zip((clip for clip, _ in group), units, strict=True)


def as_json(clip: Clip, units: Units) -> str:
    """A line that `twist speak` reads, too."""
    told: dict[str, Any] = {
        "audio": clip.name,
        "units": units.values.tolist(),
        "durations": None if units.durations is None else units.durations.tolist(),
        "frame_rate_hz": units.frame_rate_hz,
        "codebook_fingerprint": units.codebook_fingerprint,
    }
    return json.dumps(told)


def write_npy(clip: Clip, units: Units) -> list[Path]:
    """Writes OUTPUT.units.npy and OUTPUT.durations.npy (frames), both uint16 [n], as they are called in shards."""
    assert units.durations is not None
    clip.output.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, values in (("units", units.values), ("durations", units.durations)):
        paths.append(clip.output.with_name(f"{clip.output.name}.{name}.npy"))
        np.save(paths[-1], values)
    return paths
