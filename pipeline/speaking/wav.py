"""16 kHz mono samples of what a user gives to a tokenizer: a stretch of a file, or samples in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.audio.read import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, AudioError, Span, as_16_khz, probe, read_spans
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_clip(span: Span, name: str) -> NDArray[np.float32]:
    """A stretch of a file as 16 kHz mono, [S]; it may reach beyond the file's end.

    Raises:
        TwistError: it cannot be read, or is silent.
    """
    try:
        end_s = min(span.end_s, probe(span.uri).duration_s)
    except AudioError as error:
        raise _unusable(name, error) from error
    (wav,) = read_spans([Span(span.uri, span.channel, span.start_s, end_s)])
    if isinstance(wav, AudioError):
        raise _unusable(name, wav)
    return wav


def wav_of_samples(samples: NDArray[Any], sample_rate_hz: int, name: str) -> NDArray[np.float32]:
    """Samples [S] or [S, channels], floats from -1 to 1 at any rate, as 16 kHz mono [S].

    Raises:
        TwistError: they have another shape or type, an impossible rate, or are silent, NaN or infinite.
    """
    samples = np.asarray(samples)
    if not np.issubdtype(samples.dtype, np.floating):
        raise TwistError(f"{name} has samples of type {samples.dtype}; give floats from -1 to 1")
    if samples.ndim not in (1, 2) or 0 in samples.shape or (samples.ndim == 2 and len(samples) < samples.shape[1]):
        raise TwistError(f"{name} has shape {list(samples.shape)}; give samples [S] or [S, channels]")
    if not MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise TwistError(f"{name} has a sample rate of {sample_rate_hz} Hz, which no recording has")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    try:
        return as_16_khz(mono.astype(np.float32), sample_rate_hz)
    except AudioError as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: AudioError) -> TwistError:
    why = "it is silent" if error.reason == "silent" else f"{error.reason} ({error.detail})"
    return TwistError(f"{name} cannot be used: {why}")
