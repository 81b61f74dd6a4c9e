"""All opening, downmixing and resampling of audio: everything after it sees 16 kHz mono float32."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soxr

from pipeline.audio.decoders import AUDIO_SUFFIXES, AudioError, Decoder, Header, open_decoder, read_local_header
from pipeline.errors import TwistError
from pipeline.files import audio_uri, places, storage
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

__all__ = ["AUDIO_SUFFIXES", "AudioError", "AudioInfo", "Span", "as_16_khz", "probe", "read_spans"]

# Rates outside this band come from damaged headers, not from recorded speech.
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 4_000, 384_000
# So do longer durations. (A streamed FLAC does not know its own and gives the largest number.)
MAX_DURATION_S = 7 * 24 * 3600.0
# Headers round durations, and lossy decoders pad: a span that ends this much too early is not a damaged file.
END_TOLERANCE_S = 0.1
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
    """A stretch of audio; `uri` as in audio_uri.py, `channel` None means all channels, downmixed."""

    uri: str
    channel: int | None
    start_s: float
    end_s: float


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
    with _open(uri, HEADER_BYTES) as file, contextlib.closing(open_decoder(file, uri)) as decoder:
        return Header(decoder.count_frames(), decoder.sample_rate_hz, decoder.num_channels)


def read_spans(spans: Sequence[Span]) -> Iterator[NDArray[np.float32] | AudioError]:
    """Decodes spans to 16 kHz mono; yields for each, in order, a wav [S] or the error that makes it unusable.

    The samples depend on the span alone, to the last bit. If the spans of a file are in order of time, the file is
    decoded only once for all of them (starting up to `decoders.BLOCK_S` before the first).

    Raises:
        ConnectionError: a store cannot be reached.
    """
    for uri, spans_of_file in itertools.groupby(spans, key=lambda span: span.uri):
        with contextlib.closing(_File(uri)) as file:
            for span in spans_of_file:
                try:
                    yield _read_span(file, span)
                except AudioError as error:
                    yield error


def _read_span(file: _File, span: Span) -> NDArray[np.float32]:
    wav, sample_rate_hz = file.read(span.channel, span.start_s, span.end_s)
    missing_s = span.end_s - span.start_s - len(wav) / sample_rate_hz
    if missing_s > END_TOLERANCE_S or len(wav) == 0:
        raise AudioError("truncated", f"{missing_s:.2f} s missing of {span.end_s - span.start_s:.2f} s")
    return as_16_khz(wav, sample_rate_hz)


def as_16_khz(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Resamples one channel [S] from any rate to a wav [S'] at 16 kHz.

    Raises:
        AudioError: a sample is NaN or infinite, or all of them are silent.
    """
    if not np.isfinite(samples).all():
        raise AudioError("not_finite", "the file holds NaN or infinite samples")
    if float(np.abs(samples).max()) < SILENCE_PEAK:
        raise AudioError("silent", "digital silence")
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampled: NDArray[np.float32] = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    return resampled


class _File:
    """One file from which any number of stretches are read; opened by the first read."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file: BinaryIO | None = None
        self._is_near = not storage.is_s3(uri)
        self._decoder: Decoder | None = None
        self._began_at: int | None = None
        """The frame at which the decoder started; None if it cannot be continued."""
        self._position = 0

    def close(self) -> None:
        """Closes the decoder and the file."""
        self._let_go()
        if self._file is not None:
            self._file.close()

    def read(self, channel: int | None, start_s: float, end_s: float) -> tuple[NDArray[np.float32], int]:
        """Reads a stretch of one channel (None: all, downmixed): samples [S] and the file's sample rate in Hz.

        Raises:
            AudioError: it cannot be decoded, or there is no such channel.
            ConnectionError: its store cannot be reached.
        """
        try:
            decoder = self._decoder or self._begin()
            if channel is not None and channel >= decoder.num_channels:
                raise AudioError("unreadable", f"no channel {channel} in a file of {decoder.num_channels}")
            start, stop = (round(edge_s * decoder.sample_rate_hz) for edge_s in (start_s, end_s))
            wav, num_read = np.empty(max(0, stop - start), np.float32), 0
            for samples in self._pieces(start, stop, decoder.block_frames):
                piece = samples.mean(axis=1, dtype=np.float32) if channel is None else samples[:, channel]
                wav[num_read : num_read + len(piece)] = piece
                num_read += len(piece)
            return wav[:num_read], decoder.sample_rate_hz
        except AudioError:
            self._let_go()  # after a failure the decoder may fail on good spans too
            raise
        except OSError as error:  # while a lossy file was copied
            self._let_go()
            raise AudioError(places.reason_of(error), str(error)) from error

    def _pieces(self, start: int, stop: int, block_frames: int | None) -> Iterator[NDArray[np.float32]]:
        """Yields samples [S, channels] of the frames `start` to `stop`, piece by piece; stops at the file's end."""
        position = start
        while position < stop:
            block = start if block_frames is None else position // block_frames * block_frames
            end = stop if block_frames is None else min(stop, block + block_frames)
            decoder = self._go_to(position, position if block_frames is None else block)
            while position < end:
                samples = decoder.read(min(READ_AT_ONCE, end - position))
                if len(samples) == 0:
                    return
                yield samples
                position += len(samples)
                self._position = position

    def _go_to(self, frame: int, begin_at: int) -> Decoder:
        """A decoder that started at `begin_at` and has come to `frame`."""
        decoder = self._decoder or self._begin()
        if decoder.block_frames is None:
            if self._position != frame:
                decoder.seek(frame)
                self._position = frame
            return decoder
        if self._began_at != begin_at or self._position > frame:
            decoder = self._begin(begin_at)
        with contextlib.suppress(AudioError):
            self._position += decoder.pass_over(frame - self._position)
            if self._position == frame:
                return decoder
        # The audio in between is damaged; what follows need not be.
        decoder = self._begin(frame)
        self._began_at = None
        return decoder

    def _begin(self, frame: int = 0) -> Decoder:
        """Starts a new decoder at a frame."""
        self._let_go()
        self._file = self._file or _open(self._uri)
        decoder = self._decoder = open_decoder(self._file, self._uri)
        if decoder.block_frames is not None and not self._is_near:
            # The file will be read more than once, perhaps from its beginning each time.
            self._let_go()
            self._file = _copy(self._file)
            self._is_near = True
            decoder = self._decoder = open_decoder(self._file, self._uri)
        if frame:
            decoder.seek(frame)
        self._began_at = self._position = frame
        return decoder

    def _let_go(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = self._began_at = None
        self._position = 0


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
