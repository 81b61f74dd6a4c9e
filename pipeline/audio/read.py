"""All opening, downmixing and resampling of audio: everything after it sees 16 kHz mono float32."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soxr

from pipeline.audio.decoders import (
    AUDIO_SUFFIXES,
    MAX_DURATION_S,
    Decoder,
    Header,
    open_decoder,
    read_header,
    read_local_header,
)
from pipeline.audio.downmix import ChannelStatistics
from pipeline.audio.errors import AudioError
from pipeline.audio.mended import MendedStream
from pipeline.errors import TwistError
from pipeline.files import audio_uri, places, storage
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioError",
    "AudioInfo",
    "Clip",
    "Hole",
    "Span",
    "as_16_khz",
    "probe",
    "read_clips",
    "read_spans",
    "whole_wavs",
]

# Rates outside this band come from damaged headers, not from recorded speech.
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 4_000, 384_000
# Headers round durations, and lossy decoders pad: a file that ends this much too early or too late is as it should be.
END_TOLERANCE_S = 0.1
# Around samples that are no numbers or cannot be decoded, this much is left out too: it may be damaged unnoticed.
HOLE_MARGIN_S = 0.05
# Read-ahead for headers; the usual 4 MiB would download most files whole.
HEADER_BYTES = 64 * 2**10
# About -100 dBFS, below the noise of any microphone: a span that never exceeds it holds no recording.
SILENCE_PEAK = 1e-5
# Frames of all channels that are held in memory before they are downmixed into the wav.
READ_AT_ONCE = 2**20
COPIED_AT_ONCE = 2**22


@dataclass(frozen=True)
class AudioInfo:
    """Length and format of a file, from its header."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int


@dataclass(frozen=True)
class Span:
    """A stretch of audio; `uri` as in audio_uri.py, `channel` None means all channels, downmixed.

    `reads_on_s` is for the last span of a recording: if the file goes on behind it, up to so many seconds more are
    read, and the rest is counted. None: nothing behind the span is looked at.
    """

    uri: str
    channel: int | None
    start_s: float
    end_s: float
    reads_on_s: float | None = None


@dataclass(frozen=True)
class Hole:
    """A stretch of a clip without audio, in seconds from the clip's start, and why, as in AudioError."""

    start_s: float
    end_s: float
    reason: str
    detail: str


@dataclass(frozen=True)
class Clip:
    """The audio of a span.

    Attributes:
        wav: [S] at 16 kHz; zeros in holes.
        holes: In order and apart. The last may lie behind the wav: the file ends before the span.
        unread_s: Seconds that the file holds behind the wav, if the span reads on.
        remark: What was done to read it, for the counts; None if nothing.
    """

    wav: NDArray[np.float32]
    holes: tuple[Hole, ...] = ()
    unread_s: float = 0.0
    remark: str | None = None

    @property
    def duration_s(self) -> float:
        """The length of the wav in seconds."""
        return len(self.wav) / SAMPLE_RATE_HZ

    @property
    def whole(self) -> slice:
        """The samples of the longest stretch without holes."""
        return max(self.stretches(), key=lambda stretch: stretch.stop - stretch.start)

    def stretches(self) -> list[slice]:
        """The samples of each stretch between holes, in order."""
        edges = [0, *(round(edge_s * SAMPLE_RATE_HZ) for hole in self.holes for edge_s in (hole.start_s, hole.end_s))]
        ends = [*edges[1::2], len(self.wav)]
        return [slice(start, max(start, min(end, len(self.wav)))) for start, end in zip(edges[::2], ends, strict=True)]


def probe(uri: str) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: the file is missing or empty, of no known format, or has an impossible header.
        ConnectionError: its store cannot be reached.
    """
    header = _read_header(uri)
    if not MIN_SAMPLE_RATE_HZ <= header.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise AudioError("unreadable", f"impossible sample rate of {header.sample_rate_hz} Hz")
    if header.num_frames == 0:
        raise AudioError("empty", "the file holds no samples")
    duration_s = header.num_frames / header.sample_rate_hz
    if duration_s > MAX_DURATION_S:
        raise AudioError("unreadable", f"the header tells no length that can be true ({duration_s:.3g} s)")
    return AudioInfo(duration_s, header.sample_rate_hz, header.num_channels)


def _read_header(uri: str) -> Header:
    if audio_uri.parse(uri) is None and not storage.is_s3(uri):
        header = read_local_header(uri)
        if header is not None:
            return header
    # Also if the fast path failed: the decoder says what is wrong.
    with _open(uri, HEADER_BYTES) as file:
        return read_header(file)


def read_spans(spans: Sequence[Span]) -> Iterator[NDArray[np.float32] | AudioError]:
    """Decodes spans to 16 kHz mono; yields for each, in order, a wav [S] or the error that makes it unusable.

    As read_clips, but a span that is damaged or not all there is an error.

    Raises:
        ConnectionError: a store cannot be reached.
    """
    for clip in read_clips(spans):
        if isinstance(clip, Clip) and clip.holes:
            yield AudioError(clip.holes[0].reason, clip.holes[0].detail)
        else:
            yield clip if isinstance(clip, AudioError) else clip.wav


def read_clips(spans: Sequence[Span]) -> Iterator[Clip | AudioError]:
    """Decodes spans to 16 kHz mono; yields for each, in order, what there is of it, or the error if there is nothing.

    The samples depend on the span alone, to the last bit. If the spans of a file are in order of time, the file is
    decoded only once for all of them (starting up to `decoders.BLOCK_S` before the first).

    Raises:
        ConnectionError: a store cannot be reached.
    """
    for uri, spans_of_file in itertools.groupby(spans, key=lambda span: span.uri):
        with contextlib.closing(_File(uri)) as file:
            for span in spans_of_file:
                try:
                    yield file.read(span)
                except AudioError as error:
                    yield error


def whole_wavs(clips: Iterable[Clip | AudioError]) -> list[NDArray[np.float32] | AudioError]:
    """The longest stretch without holes of each clip, as a wav [S] at 16 kHz."""
    return [clip if isinstance(clip, AudioError) else clip.wav[clip.whole] for clip in clips]


def as_16_khz(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Resamples one channel [S] from any rate to a wav [S'] at 16 kHz.

    Raises:
        AudioError: a sample is NaN or infinite, or all of them are silent.
    """
    if not np.isfinite(samples).all():
        raise NOT_FINITE
    if float(np.abs(samples).max()) < SILENCE_PEAK:
        raise SILENT
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampled: NDArray[np.float32] = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    return resampled


NOT_FINITE = AudioError("not_finite", "the file holds NaN or infinite samples")
SILENT = AudioError("silent", "digital silence")


class _File:
    """One file from which any number of spans are read; opened by the first read."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file: BinaryIO | None = None
        self._is_near = not storage.is_s3(uri)
        self._decoder: Decoder | None = None
        self._stream: MendedStream | None = None

    def close(self) -> None:
        """Closes the decoder and the file."""
        self._let_go()
        if self._file is not None:
            self._file.close()

    def read(self, span: Span) -> Clip:
        """Reads what there is of a span.

        Raises:
            AudioError: nothing of it can be decoded, it is silent, or there is no such channel.
            ConnectionError: its store cannot be reached.
        """
        try:
            decoder = self._decoder or self._begin(0)
            if span.channel is not None and span.channel >= decoder.num_channels:
                raise AudioError("unreadable", f"no channel {span.channel} in a file of {decoder.num_channels}")
            clip = _ClipInTheMaking(span, decoder)
            self._read_into(clip)
            if (weights := clip.better_weights()) is not None:
                clip = _ClipInTheMaking(span, decoder, weights)
                self._read_into(clip)
            return clip.finish()
        except AudioError:
            self._let_go()  # after a failure the decoder may fail on good spans too
            raise
        except OSError as error:  # while a lossy file was copied
            self._let_go()
            raise AudioError(places.reason_of(error), str(error)) from error

    def _read_into(self, clip: _ClipInTheMaking) -> None:
        for samples in self._pieces(clip.start, clip.stop, clip.block_frames):
            clip.add(samples)
        stream = self._stream
        clip.failure = stream.failure if stream else None
        if clip.reads_on is None or stream is None or stream.position < clip.stop:
            return
        # A little more is no more than rounding.
        a_little = self._collect(clip.stop, clip.tolerance + 1, clip.block_frames)
        if len(a_little) <= clip.tolerance:
            return
        clip.add(a_little[: clip.reads_on])
        position = clip.stop + len(a_little)
        for samples in self._pieces(position, clip.stop + clip.reads_on, clip.block_frames):
            clip.add(samples)
            position += len(samples)
        rest = sum(map(len, self._pieces(position, sys.maxsize, clip.block_frames)))
        clip.num_unread = position + rest - clip.stop - clip.num_beyond

    def _collect(self, start: int, num_frames: int, block_frames: int | None) -> NDArray[np.float32]:
        pieces = list(self._pieces(start, start + num_frames, block_frames))
        return np.concatenate(pieces) if pieces else np.zeros((0, 1), np.float32)

    def _pieces(self, start: int, stop: int, block_frames: int | None) -> Iterator[NDArray[np.float32]]:
        """Yields samples [S, channels] of the frames `start` to `stop`, piece by piece; stops at the file's end."""
        position = start
        while position < stop:
            block = position if block_frames is None else position // block_frames * block_frames
            end = stop if block_frames is None else min(stop, block + block_frames)
            stream = self._stream_at(position, block, is_exact=block_frames is None)
            while position < end:
                samples = stream.read(min(READ_AT_ONCE, end - position))
                if len(samples) == 0:
                    return
                yield samples
                position += len(samples)

    def _stream_at(self, frame: int, begin_at: int, *, is_exact: bool) -> MendedStream:
        """A stream that has come to `frame`, or ended before; one that is not exact has started at `begin_at`."""
        stream = self._stream
        if (
            stream is None
            or stream.position > frame
            or (stream.position != frame if is_exact else stream.start != begin_at)
        ):
            stream = self._stream = MendedStream(self._begin, begin_at)
        stream.pass_over(frame - stream.position)
        return stream

    def _begin(self, frame: int) -> Decoder:
        """Starts a new decoder at a frame."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
        self._file = self._file or _open(self._uri)
        decoder = self._decoder = open_decoder(self._file)
        if decoder.block_frames is not None and not self._is_near:
            # The file will be read more than once, perhaps from its beginning each time.
            decoder.close()
            self._file = _copy(self._file)
            self._is_near = True
            decoder = self._decoder = open_decoder(self._file)
        if frame:
            decoder.seek(frame)
        return decoder

    def _let_go(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = self._stream = None


class _ClipInTheMaking:
    """A span's samples, downmixed and resampled as they come, so that little of them is in memory.

    Attributes:
        start, stop: The span's frames.
        reads_on: How many frames more are wanted; None if none, even if there are.
        num_beyond, num_unread: Frames read behind the span, and left behind these.
        failure: What the decoder met on the way.
    """

    def __init__(self, span: Span, decoder: Decoder, weights: NDArray[np.float32] | None = None) -> None:
        self._rate_hz = rate_hz = decoder.sample_rate_hz
        self.start, self.stop = (round(edge_s * rate_hz) for edge_s in (span.start_s, span.end_s))
        self.reads_on = None if span.reads_on_s is None else round(span.reads_on_s * rate_hz)
        self.tolerance = round(END_TOLERANCE_S * rate_hz)
        self.block_frames = decoder.block_frames
        self.num_unread = 0
        self.failure: AudioError | None = None
        self._duration_s = span.end_s - span.start_s
        self._channel = span.channel
        self._weights = weights
        self._statistics = None
        if span.channel is None and decoder.num_channels > 1 and weights is None:
            self._statistics = ChannelStatistics(decoder.num_channels)
        is_resampled = rate_hz != SAMPLE_RATE_HZ
        self._resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32") if is_resampled else None
        self._wavs: list[NDArray[np.float32]] = []
        self._num_frames = 0
        self._bad: list[tuple[int, int]] = []
        """Frames from the clip's start that are no numbers, as (first, behind the last)."""

    @property
    def num_beyond(self) -> int:
        return max(0, self._num_frames - (self.stop - self.start))

    def add(self, samples: NDArray[np.float32]) -> None:
        """Adds the next samples [S, channels]."""
        mono = self._mix(samples)
        is_bad = ~np.isfinite(mono)
        if is_bad.any():
            edges = np.flatnonzero(np.diff(is_bad, prepend=False, append=False)).reshape(-1, 2) + self._num_frames
            self._bad.extend((int(first), int(last)) for first, last in edges)
            mono = np.where(is_bad, np.float32(0), mono)
        self._num_frames += len(mono)
        self._wavs.append(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def _mix(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._channel is not None or samples.shape[1] == 1:
            return np.ascontiguousarray(samples[:, self._channel or 0])
        if self._weights is not None:
            taken = self._weights > 0
            mixed: NDArray[np.float32] = samples[:, taken] @ self._weights[taken]
            return mixed
        mean: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
        if self._statistics is not None:
            self._statistics.add(samples, mean)
        return mean

    def better_weights(self) -> NDArray[np.float32] | None:
        """The weights of channels, if the mean that was taken is not what should be; else None."""
        return self._statistics.weights() if self._statistics else None

    def finish(self) -> Clip:
        """The clip.

        Raises:
            AudioError: there is nothing in it.
        """
        if self._resampler is not None:
            self._wavs.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        wav = self._wavs[0] if len(self._wavs) == 1 else np.concatenate([np.zeros(0, np.float32), *self._wavs])
        read_s = self._num_frames / self._rate_hz
        holes = self._holes(read_s)
        if read_s == 0 or (holes and holes[0].start_s == 0 and holes[0].end_s >= read_s):
            hole = holes[0] if holes else Hole(0, 0, "truncated", "nothing is there")
            raise AudioError(hole.reason, hole.detail)
        if len(wav) and float(np.abs(wav).max()) < SILENCE_PEAK:
            raise SILENT
        return Clip(wav, tuple(holes), self.num_unread / self._rate_hz, self._remark())

    def _remark(self) -> str | None:
        if self._weights is None:
            return None
        channels = ", ".join(map(str, np.flatnonzero(self._weights)))
        return f"only channel {channels} of {len(self._weights)}: the others are dead, damaged or of opposite phase"

    def _holes(self, read_s: float) -> list[Hole]:
        holes: list[Hole] = []
        missing_s = self._duration_s - read_s
        for first, last in self._bad:
            start_s = max(0.0, first / self._rate_hz - HOLE_MARGIN_S)
            end_s = min(read_s, last / self._rate_hz + HOLE_MARGIN_S)
            if holes and start_s <= holes[-1].end_s:
                start_s = holes.pop().start_s
            error = self.failure or NOT_FINITE
            holes.append(Hole(start_s, end_s, error.reason, error.detail))
        if missing_s > END_TOLERANCE_S or read_s == 0:
            error = AudioError("truncated", f"{missing_s:.2f} s missing of {self._duration_s:.2f} s")
            if self.failure is not None:
                error = AudioError("truncated", f"{error.detail} ({self.failure.detail})")
            holes.append(Hole(read_s, self._duration_s, error.reason, error.detail))
        return holes


def _copy(file: BinaryIO) -> BinaryIO:
    """Copies a file to an unnamed local one, which disappears when closed, and closes the original."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        file.seek(0)
        shutil.copyfileobj(file, copy, COPIED_AT_ONCE)
    except BaseException:
        copy.close()
        raise
    file.close()
    return copy


def _open(uri: str, read_ahead_bytes: int | None = None) -> BinaryIO:
    try:
        return audio_uri.open_read(uri, read_ahead_bytes)
    except FileNotFoundError:
        raise AudioError("missing", f"{uri} does not exist") from None
    except TwistError as error:  # the Parquet file around it is damaged
        raise AudioError("unreadable", str(error)) from error
    except OSError as error:
        raise AudioError(places.reason_of(error), str(error)) from error
