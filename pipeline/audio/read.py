"""All opening, downmixing and resampling of audio: everything after it sees 16 kHz mono float32."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soxr

from pipeline.audio.clip import END_TOLERANCE_S, SILENCE_PEAK, Clip, ClipInTheMaking, Hole, Span
from pipeline.audio.decoders import (
    AUDIO_SUFFIXES,
    MAX_DURATION_S,
    Decoder,
    Header,
    open_decoder,
    read_header,
    read_local_header,
)
from pipeline.audio.errors import AudioError, not_finite, silent
from pipeline.audio.mended import MendedStream
from pipeline.errors import TwistError
from pipeline.files import audio_uri, places, storage
from pipeline.files.local_copy import unnamed_copy
from pipeline.printable import printable
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

__all__ = [
    "AUDIO_SUFFIXES",
    "END_TOLERANCE_S",
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

logger = logging.getLogger(__name__)

# Rates outside this band come from damaged headers, not from recorded speech.
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 4_000, 384_000
# Read-ahead for headers; the usual 4 MiB would download most files whole.
HEADER_BYTES = 64 * 2**10
# Frames that are held in memory before they are downmixed into the wav, and samples of all their channels (a header may
# name a thousand).
READ_AT_ONCE = 2**20
MAX_SAMPLES_AT_ONCE = 2**23


@dataclass(frozen=True)
class AudioInfo:
    """Length and format of a file, from its header."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int


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
        try:
            return read_header(file)
        except OSError as error:
            raise AudioError(places.reason_of(error), str(error)) from error


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
        raise not_finite()
    if float(np.abs(samples).max()) < SILENCE_PEAK:
        raise silent()
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampled: NDArray[np.float32] = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    return resampled


class _File:
    """One file from which any number of spans are read; opened by the first read."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file: BinaryIO | None = None
        self._is_near = not storage.is_s3(uri)
        self._decoder: Decoder | None = None
        self._kind: type[Decoder] | None = None
        """Of the decoder that the file wants, once it is known."""
        self._stream: MendedStream | None = None
        self._complaint: str | None = None

    def close(self) -> None:
        """Closes the decoder and the file; tells once what a decoder read past."""
        self._let_go()
        if self._complaint is not None:
            logger.warning(
                "%s is damaged; what its decoder made of it was used, though it said: %s",
                printable(self._uri),
                printable(self._complaint),
            )
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
            clip = ClipInTheMaking(span, decoder)
            self._read_into(clip)
            if (weights := clip.better_weights()) is not None:
                clip = ClipInTheMaking(span, decoder, weights)
                self._read_into(clip)
            return clip.finish()
        except AudioError:
            self._let_go()  # after a failure the decoder may fail on good spans too
            raise
        except OSError as error:  # while a lossy file was copied
            self._let_go()
            raise AudioError(places.reason_of(error), str(error)) from error

    def _read_into(self, clip: ClipInTheMaking) -> None:
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
            assert self._decoder is not None
            # A damaged header may name no channel at all.
            at_once = min(READ_AT_ONCE, MAX_SAMPLES_AT_ONCE // max(1, self._decoder.num_channels))
            while position < end:
                samples = stream.read(min(at_once, end - position))
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
        self._close_decoder()
        self._file = self._file or _open(self._uri)
        if self._kind is None:
            self._bring_near()
            decoder = self._decoder = open_decoder(self._file)
        else:
            decoder = self._decoder = self._kind.begin(self._file)
        self._kind = type(decoder)
        if frame:
            decoder.seek(frame)
        return decoder

    def _bring_near(self) -> None:
        """Copies a lossy file that lies far away: it is read more than once, perhaps from its beginning each time."""
        assert self._file is not None
        if self._is_near:
            return
        with contextlib.closing(open_decoder(self._file, header_only=True)) as decoder:
            is_lossy = decoder.block_frames is not None
        if is_lossy:
            far, self._file = self._file, unnamed_copy(self._file)
            far.close()
            self._is_near = True

    def _let_go(self) -> None:
        self._close_decoder()
        self._stream = None

    def _close_decoder(self) -> None:
        if self._decoder is not None:
            self._complaint = self._complaint or self._decoder.complaint
            self._decoder.close()
            self._decoder = None


def _open(uri: str, read_ahead_bytes: int | None = None) -> BinaryIO:
    try:
        return audio_uri.open_read(uri, read_ahead_bytes)
    except FileNotFoundError:
        raise AudioError("missing", f"{uri} does not exist") from None
    except TwistError as error:  # the Parquet file around it is damaged
        raise AudioError("unreadable", str(error)) from error
    except OSError as error:
        raise AudioError(places.reason_of(error), str(error)) from error
