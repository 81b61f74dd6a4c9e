"""The only place where audio is opened, downmixed and resampled: everything after it sees 16 kHz mono float32."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import soundfile
import soxr

from pipeline import storage
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

LIBSNDFILE_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .mp2 .sph .nist .aiff .aif .aifc .au .snd .w64 .rf64 .caf .voc".split()
)
PYAV_SUFFIXES = frozenset(".m4a .mp4 .webm .mkv .mka .aac .wma .amr .3gp .mov".split())
AUDIO_SUFFIXES = LIBSNDFILE_SUFFIXES | PYAV_SUFFIXES

# Rates outside this band come from damaged headers, not from recorded speech.
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 4_000, 384_000
# Headers round durations, and lossy decoders pad: this much missing at the end of a span is not a damaged file.
END_TOLERANCE_S = 0.1
# About -100 dBFS: below the noise of any microphone, so a file that never exceeds it holds no recording.
SILENCE_PEAK = 1e-5


class AudioError(Exception):
    """Audio that cannot be used. `reason` is one word for the tables of drops, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int


@dataclass(frozen=True)
class Span:
    """A stretch of one channel of a file; `channel` None means all of them, downmixed."""

    uri: str
    channel: int | None
    start_s: float
    end_s: float


def probe(uri: str) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: missing, empty, of no known format, or with a header that cannot be true.
    """
    with _open(uri) as source:
        if not MIN_SAMPLE_RATE_HZ <= source.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
            raise AudioError("unreadable", f"impossible sample rate of {source.sample_rate_hz} Hz")
        if source.num_frames == 0:
            raise AudioError("empty", "the file holds no samples")
        duration_s = source.num_frames / source.sample_rate_hz
        return AudioInfo(duration_s, source.sample_rate_hz, source.num_channels)


def read_spans(spans: Sequence[Span]) -> Iterator[NDArray[np.float32] | AudioError]:
    """Decodes spans, in order, to 16 kHz mono: each a wav [S], or the error that makes it unusable.

    A file is opened once for the neighbouring spans that lie in it. What a span gives depends on that span alone.
    """
    for uri, spans_of_file in itertools.groupby(spans, key=lambda span: span.uri):
        try:
            source = _open(uri)
        except AudioError as error:
            yield from (error for _ in spans_of_file)
            continue
        with source:
            for span in spans_of_file:
                try:
                    yield _read_span(source, span)
                except AudioError as error:
                    yield error


def _read_span(source: _Source, span: Span) -> NDArray[np.float32]:
    start = round(span.start_s * source.sample_rate_hz)
    stop = round(span.end_s * source.sample_rate_hz)
    samples = source.read(start, stop)
    missing_s = (stop - start - len(samples)) / source.sample_rate_hz
    if missing_s > END_TOLERANCE_S:
        raise AudioError("truncated", f"{missing_s:.2f} s missing of {span.end_s - span.start_s:.2f} s")
    if span.channel is None:
        wav = samples.mean(axis=1, dtype=np.float32)
    elif span.channel < source.num_channels:
        wav = samples[:, span.channel]
    else:
        raise AudioError("unreadable", f"no channel {span.channel} in a file of {source.num_channels}")
    if not np.isfinite(wav).all():
        raise AudioError("not_finite", "the file holds NaN or infinite samples")
    if len(wav) == 0 or float(np.abs(wav).max()) < SILENCE_PEAK:
        raise AudioError("silent", "digital silence")
    if source.sample_rate_hz == SAMPLE_RATE_HZ:
        return np.ascontiguousarray(wav)
    resampled: NDArray[np.float32] = soxr.resample(np.ascontiguousarray(wav), source.sample_rate_hz, SAMPLE_RATE_HZ)
    return resampled


class _Source:
    """An open file of decoded audio, whichever library decodes it."""

    sample_rate_hz: int
    num_channels: int
    num_frames: int

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples [S, channels] from `start` to before `stop`, fewer at the file's end."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(uri: str) -> _Source:
    try:
        file = storage.open_read(uri)
    except FileNotFoundError:
        raise AudioError("missing", f"{uri} does not exist") from None
    except OSError as error:
        raise AudioError("unreadable", str(error)) from error
    suffix = PurePosixPath(uri).suffix.lower()
    try:
        return _PyAVSource(file) if suffix in PYAV_SUFFIXES else _SoundFileSource(file)
    except AudioError:
        file.close()
        raise


class _SoundFileSource(_Source):
    def __init__(self, file: BinaryIO) -> None:
        if not file.read(1):
            raise AudioError("empty", "the file has no bytes")
        file.seek(0)
        try:
            self._sound = soundfile.SoundFile(file)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise AudioError("unreadable", _one_line(error)) from error
        self._file = file
        self.sample_rate_hz = self._sound.samplerate
        self.num_channels = self._sound.channels
        self.num_frames = self._sound.frames

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        try:
            self._sound.seek(min(start, self.num_frames))
            samples: NDArray[np.float32] = self._sound.read(stop - start, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError("undecodable", _one_line(error)) from error
        return samples

    def close(self) -> None:
        self._sound.close()
        self._file.close()


class _PyAVSource(_Source):
    """Decoded whole when opened: containers such as m4a have no seek that is exact to the sample."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            import av
        except ImportError:
            raise AudioError("needs_av", "libsndfile does not read this format: pip install 'twist-pipeline[av]'") from None
        try:
            with av.open(file) as container:
                stream = container.streams.audio[0]
                resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
                blocks: list[Any] = []
                for frame in container.decode(stream):
                    blocks += [block.to_ndarray() for block in resampler.resample(frame)]
                blocks += [block.to_ndarray() for block in resampler.resample(None)]
                self.sample_rate_hz = stream.rate
        except (av.FFmpegError, IndexError, ValueError) as error:
            raise AudioError("unreadable", _one_line(error)) from error
        finally:
            file.close()
        self._samples = np.concatenate(blocks, axis=1).T if blocks else np.zeros((0, 1), np.float32)
        self.num_frames, self.num_channels = self._samples.shape

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        return self._samples[start:stop]

    def close(self) -> None:
        pass


def _one_line(error: Exception) -> str:
    # libsndfile's own words, without the repr of the file object that soundfile puts before them
    return " ".join(str(getattr(error, "error_string", error)).split())
