"""The audio of what was traced, cut out of the original recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def audio_of(traced: dict[str, Any]) -> NDArray[np.float32]:
    """16 kHz mono [S]: the segments that were named, end to end, or the whole recording.

    Raises:
        TwistError: the manifest does not have the recording, or it cannot be read any more.
    """
    row = traced["recording"]
    if row is None:
        raise TwistError(f"{traced['recording_id']} was dropped before it was read, so it cannot be played")
    stretches = [(segment["start_s"], segment["end_s"]) for segment in traced["segments"]]
    if traced["is_whole"]:
        stretches = [(0.0, row["duration_s"])]
    wavs = []
    for wav in read_spans([Span(row["uri"], row["channel"], *stretch) for stretch in stretches]):
        if isinstance(wav, AudioError):
            raise TwistError(f"{row['uri']} cannot be read: {wav}")
        wavs.append(wav)
    return np.concatenate(wavs)
