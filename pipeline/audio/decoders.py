"""Sequential decoders of audio files: libsndfile, and PyAV for the formats that libsndfile cannot read."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import soundfile

from pipeline.files import places

if TYPE_CHECKING:
    from collections.abc import Iterator

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

# libsndfile identifies these by content; for some other formats it also looks at the suffix.
SELF_DESCRIBING_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".sph", ".aiff"})
# In these encodings a sample does not depend on what the decoder read before.
MEMORYLESS_SUBTYPES = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
# A decoder whose output depends on earlier samples starts at multiples of this. A trade-off: seeking in an mp3 costs as
# much as reading everything before, and decoding samples that nobody asked for costs time too.
BLOCK_S = 300.0
# Decoded and discarded after a seek: mp3 frames use bytes of earlier frames, which libsndfile does not go back for. At
# 8 kbit/s these may be half a second back.
LEAD_IN_S = 2.0
# Such a decoder always decodes this many frames at a time: the samples' last bits depend on it.
DECODED_AT_ONCE = 2**16


class AudioError(Exception):
    """Audio that cannot be used: `reason` is one word for the tables of drops, `detail` a phrase that explains it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # unchanged, so that the error survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Decoder:
    """A file being decoded; the caller who opened the file closes it.

    `block_frames` is None if samples are the same wherever decoding starts. Otherwise they are reproducible only if a
    new decoder starts at a multiple of it.
    """

    sample_rate_hz: int
    num_channels: int
    block_frames: int | None

    def __init__(self) -> None:
        self._rest = np.zeros((0, self.num_channels), np.float32)

    def count_frames(self) -> int:
        """The number of frames in the file, from its header or by decoding all of it: the decoder is then used up."""
        raise NotImplementedError

    def seek(self, frame: int) -> None:
        """Moves from the first frame to `frame`, or to the end if the file is shorter."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees the decoder, but leaves the file open."""
        raise NotImplementedError

    def read(self, num_frames: int) -> NDArray[np.float32]:
        """The next samples [S, channels]; fewer than `num_frames` at the file's end."""
        pieces, missing = [self._rest[:0]], num_frames
        while missing:
            if not len(self._rest):
                self._rest = self._decode(missing)
            if not len(self._rest):
                break
            pieces.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(pieces[-1])
        return np.concatenate(pieces) if len(pieces) != 2 else pieces[1]

    def pass_over(self, num_frames: int) -> int:
        """Decodes and discards up to `num_frames` frames; returns how many there were."""
        passed = 0
        while passed < num_frames:
            num_read = len(self.read(min(DECODED_AT_ONCE, num_frames - passed)))
            if num_read == 0:
                break
            passed += num_read
        return passed

    def _decode(self, num_frames: int) -> NDArray[np.float32]:
        """The next samples [S, channels], any number of them (ideally `num_frames`); none at the file's end."""
        raise NotImplementedError


class Header(NamedTuple):
    """Length and format of a file, as its header gives them."""

    num_frames: int
    sample_rate_hz: int
    num_channels: int


def read_local_header(path: str) -> Header | None:
    """Reads the header of a local file, many times faster than a decoder does; None if only a decoder can tell."""
    if PurePosixPath(path).suffix.lower() not in SELF_DESCRIBING_SUFFIXES:
        return None
    try:
        with soundfile.SoundFile(path) as sound:
            return Header(sound.frames, sound.samplerate, sound.channels)
    except soundfile.SoundFileError:
        return None


def open_decoder(file: BinaryIO, name: str) -> Decoder:
    """Makes a decoder that starts at a file's first frame.

    Args:
        file: The open file; must be seekable.
        name: Its name; the suffix chooses the decoder.

    Raises:
        AudioError: the file is empty, or its format is unknown.
        ConnectionError: its store cannot be reached.
    """
    if file.seek(0, io.SEEK_END) == 0:
        raise AudioError("empty", "the file has no bytes")
    file.seek(0)
    suffix = PurePosixPath(name).suffix.lower()
    return _PyAVDecoder(file) if suffix in PYAV_SUFFIXES else _SoundFileDecoder(file)


class _SoundFileDecoder(Decoder):
    def __init__(self, file: BinaryIO) -> None:
        self._file = _WatchedFile(file)
        with self._failures("unreadable"):
            self._sound = _ForwardSoundFile(self._file)
        self.sample_rate_hz = self._sound.samplerate
        self.num_channels = self._sound.channels
        is_memoryless = self._sound.subtype in MEMORYLESS_SUBTYPES
        self.block_frames = None if is_memoryless else round(BLOCK_S * self.sample_rate_hz)
        super().__init__()

    def count_frames(self) -> int:
        return int(self._sound.frames)

    def seek(self, frame: int) -> None:
        lead_in = 0 if self.block_frames is None else min(frame, round(LEAD_IN_S * self.sample_rate_hz))
        with self._failures("undecodable"):
            if not self._sound.can_seek:
                self.pass_over(frame)
            else:
                self._sound.seek(min(frame - lead_in, self._sound.frames))
                self.pass_over(lead_in)

    def close(self) -> None:
        self._sound.close()

    def _decode(self, num_frames: int) -> NDArray[np.float32]:
        at_once = num_frames if self.block_frames is None else DECODED_AT_ONCE
        with self._failures("undecodable"):
            samples: NDArray[np.float32] = self._sound.read(at_once, dtype="float32", always_2d=True)
        return samples

    @contextlib.contextmanager
    def _failures(self, reason: str) -> Iterator[None]:
        """Turns errors of libsndfile into AudioErrors; if reading the file failed, that is raised instead."""
        try:
            yield
        except soundfile.SoundFileError as error:
            self._file.raise_failure()
            raise AudioError(reason, _one_line(error)) from error
        self._file.raise_failure()


class _ForwardSoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Reads on where the last read ended; soundfile itself would seek there, after which an mp3 starts with garbage."""

    @property
    def can_seek(self) -> bool:
        """Whether the file's format allows seeking."""
        return bool(super().seekable())

    def seekable(self) -> bool:
        """False, so that soundfile does not seek of its own accord."""
        return False


class _WatchedFile:
    """Remembers a failed read of a file: libsndfile takes one for the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._failure: OSError | None = None
        self.tell = file.tell

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with contextlib.suppress(OSError, ValueError):  # a damaged header may make libsndfile seek to before byte 0
            return self._file.seek(offset, whence)
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]
        except OSError as failure:
            self._failure = failure
            return 0

    def raise_failure(self) -> None:
        """Raises the last failed read, if any, as an AudioError, or as a ConnectionError if the place is at fault."""
        if self._failure:
            raise AudioError(places.reason_of(self._failure), str(self._failure)) from self._failure


class _PyAVDecoder(Decoder):
    """Always decodes from the first frame: containers such as m4a have no sample-accurate seek."""

    block_frames = sys.maxsize

    def __init__(self, file: BinaryIO) -> None:
        try:
            import av
        except ImportError:
            advice = "libsndfile does not read this format; install this project's extra `av`"
            raise AudioError("needs_av", advice) from None
        self._av_error = av.FFmpegError
        with self._failures():
            self._container = av.open(file, metadata_errors="replace")
            if not self._container.streams.audio or self._container.streams.audio[0].codec_context is None:
                self._container.close()
                raise AudioError("unreadable", "it holds no audio of a known coding")
            stream = self._container.streams.audio[0]
            self.sample_rate_hz = stream.rate
            self.num_channels = stream.layout.nb_channels
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        self._blocks = self._resampled(stream, resampler)
        super().__init__()

    def _resampled(self, stream: Any, resampler: Any) -> Iterator[NDArray[np.float32]]:
        last = (None,)  # flushes the resampler
        for frame in itertools.chain(self._container.decode(stream), last):
            for block in resampler.resample(frame):
                yield block.to_ndarray().T

    def count_frames(self) -> int:
        return self.pass_over(sys.maxsize)

    def seek(self, frame: int) -> None:
        self.pass_over(frame)

    def _decode(self, num_frames: int) -> NDArray[np.float32]:
        with self._failures():
            return next(self._blocks, self._rest[:0])

    def close(self) -> None:
        self._container.close()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (self._av_error, OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, self._av_error):  # of the file, not of its content
                raise AudioError(places.reason_of(error), _one_line(error)) from error
            raise AudioError("unreadable", _one_line(error)) from error


def _one_line(error: Exception) -> str:
    # Leaves out the repr of the file object, which soundfile puts before libsndfile's message, and FFmpeg's numbers.
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
    return " ".join(str(words).split())
