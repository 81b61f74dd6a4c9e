"""The only place where audio is opened, downmixed and resampled: everything after it sees 16 kHz mono float32."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr

from pipeline import location, storage
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

# fmt: off
LIBSNDFILE_SUFFIXES = frozenset({
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".sph", ".nist", ".aiff", ".aif", ".aifc", ".au", ".snd",
    ".w64", ".rf64", ".caf", ".voc",
})
PYAV_SUFFIXES = frozenset({
    ".m4a", ".mp4", ".webm", ".mkv", ".mka", ".aac", ".wma", ".amr", ".3gp", ".mov",
})
# fmt: on
AUDIO_SUFFIXES = LIBSNDFILE_SUFFIXES | PYAV_SUFFIXES

# Of which libsndfile asks nobody but the content what it is; where that says nothing it goes by some other suffixes.
SELF_DESCRIBING_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".sph", ".aiff"})

# Rates outside this band come from damaged headers, not from recorded speech.
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 4_000, 384_000
# So do longer durations. (A FLAC that was streamed does not know its own and tells the largest number there is.)
MAX_DURATION_S = 7 * 24 * 3600.0
# Headers round durations, and lossy decoders pad: this much missing at the end of a span is not a damaged file.
END_TOLERANCE_S = 0.1
# Read at a time where only a header is wanted: of a million files on S3, four MiB each would be all of them.
HEADER_BYTES = 64 * 2**10
# What a machine runs out of, or a mount that was replaced: the file is as good as ever.
MACHINE_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EINTR})
# About -100 dBFS: below the noise of any microphone, so a file that never exceeds it holds no recording.
SILENCE_PEAK = 1e-5
# Samples of these codings do not depend on what the decoder read before.
MEMORYLESS_SUBTYPES = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})


class AudioError(Exception):
    """Audio that cannot be used. `reason` is one word for the tables of drops, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # as they came, so that it survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int


@dataclass(frozen=True)
class Span:
    """A stretch of one channel of a file, or of what a file holds (location.py); `channel` None: all, downmixed."""

    uri: str
    channel: int | None
    start_s: float
    end_s: float


def probe(uri: str) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: missing, empty, of no known format, or with a header that cannot be true.
        ConnectionError: its store cannot be reached.
    """
    with _open_header(uri) as source:
        if not MIN_SAMPLE_RATE_HZ <= source.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
            raise AudioError("unreadable", f"impossible sample rate of {source.sample_rate_hz} Hz")
        if source.num_frames == 0:
            raise AudioError("empty", "the file holds no samples")
        duration_s = source.num_frames / source.sample_rate_hz
        if duration_s > MAX_DURATION_S:
            raise AudioError("unreadable", f"the header tells no length that can be true ({duration_s:.3g} s)")
        return AudioInfo(duration_s, source.sample_rate_hz, source.num_channels)


def read_spans(spans: Sequence[Span]) -> Iterator[NDArray[np.float32] | AudioError]:
    """Decodes spans, in order, to 16 kHz mono: each a wav [S], or the error that makes it unusable.

    What a span gives depends on that span alone, to the last bit. So a file is opened once for neighbouring spans only
    where its decoder has no memory; where it has one (lossy codings, or after an error), once for each.

    Raises:
        ConnectionError: a store cannot be reached.
    """
    for _, spans_of_file in itertools.groupby(spans, key=lambda span: span.uri):
        yield from _read_spans_of_file(spans_of_file)


def _read_spans_of_file(spans: Iterable[Span]) -> Iterator[NDArray[np.float32] | AudioError]:
    source: _Source | None = None
    try:
        for span in spans:
            outcome: NDArray[np.float32] | AudioError
            try:
                source = source or _open(span.uri)
                outcome = _read_span(source, span)
            except AudioError as error:
                outcome = error
            if source and not source.is_fresh:
                source.close()
                source = None
            yield outcome
    finally:
        if source:
            source.close()


def _read_span(source: _Source, span: Span) -> NDArray[np.float32]:
    start = round(span.start_s * source.sample_rate_hz)
    stop = round(span.end_s * source.sample_rate_hz)
    samples = source.read(start, stop)
    missing_s = (stop - start - len(samples)) / source.sample_rate_hz
    if missing_s > END_TOLERANCE_S or len(samples) == 0:
        raise AudioError("truncated", f"{missing_s:.2f} s missing of {span.end_s - span.start_s:.2f} s")
    if span.channel is None:
        wav = samples.mean(axis=1, dtype=np.float32)
    elif span.channel < source.num_channels:
        wav = samples[:, span.channel]
    else:
        raise AudioError("unreadable", f"no channel {span.channel} in a file of {source.num_channels}")
    if not np.isfinite(wav).all():
        raise AudioError("not_finite", "the file holds NaN or infinite samples")
    if float(np.abs(wav).max()) < SILENCE_PEAK:
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
    is_fresh = True
    """Whether the next read gives what it would give had nothing been read before."""

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples [S, channels] from `start` to before `stop`, fewer at the file's end."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_header(uri: str) -> _Source:
    """A file of which only the header is wanted."""
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in SELF_DESCRIBING_SUFFIXES and location.parse(uri) is None and not storage.is_s3(uri):
        # libsndfile reads it by itself, many times faster than through Python. What is wrong with it, if anything is,
        # is found out below.
        with contextlib.suppress(soundfile.SoundFileError):
            return _LocalHeader(uri)
    return _open(uri, HEADER_BYTES)


def _open(uri: str, read_ahead_bytes: int | None = None) -> _Source:
    try:
        file = location.open_read(uri, read_ahead_bytes)
    except FileNotFoundError:
        raise AudioError("missing", f"{uri} does not exist") from None
    except TwistError as error:  # the Parquet file around it is damaged
        raise AudioError("unreadable", str(error)) from error
    except ConnectionError:
        raise
    except OSError as error:
        if error.errno in MACHINE_ERRNOS:
            raise
        raise AudioError("unreadable", str(error)) from error
    suffix = PurePosixPath(uri).suffix.lower()
    try:
        if file.seek(0, io.SEEK_END) == 0:
            raise AudioError("empty", "the file has no bytes")
        file.seek(0)
        return _PyAVSource(file) if suffix in PYAV_SUFFIXES else _SoundFileSource(file)
    except BaseException:
        file.close()
        raise


class _SoundFileSource(_Source):
    def __init__(self, file: BinaryIO) -> None:
        self._file = _WatchedFile(file)
        try:
            self._sound = soundfile.SoundFile(self._file)
        except soundfile.SoundFileError as error:
            self._file.raise_failure()
            raise AudioError("unreadable", _one_line(error)) from error
        self._file.raise_failure()
        self.sample_rate_hz = self._sound.samplerate
        self.num_channels = self._sound.channels
        self.num_frames = self._sound.frames

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        self.is_fresh = False
        try:
            if self._sound.seekable():
                self._sound.seek(min(start, self.num_frames))
            else:
                self._sound.read(min(start, self.num_frames), dtype="float32")
            samples: NDArray[np.float32] = self._sound.read(stop - start, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            self._file.raise_failure()
            raise AudioError("undecodable", _one_line(error)) from error
        self._file.raise_failure()
        self.is_fresh = self._sound.subtype in MEMORYLESS_SUBTYPES
        return samples

    def close(self) -> None:
        self._sound.close()
        self._file.close()


class _LocalHeader(_Source):
    """The header of a local file; its samples are not for reading."""

    def __init__(self, path: str) -> None:
        with soundfile.SoundFile(path) as sound:
            self.sample_rate_hz, self.num_channels, self.num_frames = sound.samplerate, sound.channels, sound.frames

    def close(self) -> None:
        pass


class _WatchedFile:
    """Keeps what goes wrong with a file while libsndfile reads it, who takes a failing read for the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._failure: OSError | None = None
        self.tell, self.close = file.tell, file.close

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with contextlib.suppress(OSError):  # a damaged header may send libsndfile to before the file's beginning
            return self._file.seek(offset, whence)
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]
        except OSError as failure:
            self._failure = failure
            return 0

    def raise_failure(self) -> None:
        """Raises what went wrong since the file was opened."""
        if isinstance(self._failure, ConnectionError):
            raise self._failure
        if self._failure:
            raise AudioError("unreadable", str(self._failure)) from self._failure


class _PyAVSource(_Source):
    """Decoded whole when opened: containers such as m4a have no seek that is exact to the sample."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            import av
        except ImportError:
            advice = "libsndfile does not read this format; install this project's extra `av`"
            raise AudioError("needs_av", advice) from None
        try:
            with av.open(file, metadata_errors="replace") as container:
                if not container.streams.audio or container.streams.audio[0].codec_context is None:
                    raise AudioError("unreadable", "it holds no audio of a known coding")
                stream = container.streams.audio[0]
                resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
                blocks: list[Any] = []
                for frame in container.decode(stream):
                    blocks += [block.to_ndarray() for block in resampler.resample(frame)]
                blocks += [block.to_ndarray() for block in resampler.resample(None)]
                self.sample_rate_hz = stream.rate
        except ConnectionError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
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
    # Without the repr of the file object that soundfile puts before libsndfile's words, and FFmpeg's error numbers.
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
    return " ".join(str(words).split())
