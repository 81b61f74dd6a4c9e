"""Sequential decoders of audio files: libsndfile, and PyAV for what libsndfile cannot read, or not to the end.

What a file holds decides, not what it is called.
"""

from __future__ import annotations

import contextlib
import errno
import io
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

import numpy as np
import soundfile

from pipeline.audio import mpeg, mpeg_messages, ogg
from pipeline.audio.errors import AudioError
from pipeline.audio.pyav import PyAVStream
from pipeline.audio.stated_length import is_believable, wav_goes_on
from pipeline.files import places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# Names of files that are taken for audio; all others are passed over.
# fmt: off
AUDIO_SUFFIXES = frozenset({
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".ogx", ".opus", ".spx", ".mp3", ".mp2", ".mp1", ".mpa", ".mpga",
    ".m2a", ".sph", ".nist", ".wv1", ".wv2", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".rf64", ".bwf", ".caf",
    ".voc", ".gsm", ".ircam", ".sf", ".paf", ".svx", ".avr", ".htk", ".pvf", ".xi", ".sd2",
    ".m4a", ".m4b", ".m4p", ".m4r", ".f4a", ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".3ga", ".webm",
    ".weba", ".mkv", ".mka", ".aac", ".adts", ".loas", ".wma", ".asf", ".wmv", ".amr", ".awb", ".ac3", ".eac3", ".ec3",
    ".dts", ".mlp", ".thd", ".ape", ".wv", ".tta", ".tak", ".mpc", ".mpp", ".dsf", ".oma", ".ra", ".rm", ".rmvb",
    ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".avi", ".flv", ".ogv",
    # Of these most cannot be read, having no header or a secret coding: they are dropped, not passed over.
    ".mp4a", ".g722", ".g723", ".g726", ".g729", ".pcm", ".vox", ".sln", ".ulaw", ".alaw", ".dss", ".ds2", ".dvf",
    ".msv", ".aax", ".shn", ".sbc", ".ac4",
})
# fmt: on

# libsndfile identifies these by content; for some other formats it also looks at the suffix.
SELF_DESCRIBING_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".sph", ".aiff"})
# Longer durations come from damaged headers. (A streamed FLAC does not know its own and gives the largest number.)
MAX_DURATION_S = 7 * 24 * 3600.0
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


class Decoder:
    """A file being decoded; the caller who opened the file closes it.

    `block_frames` is None if samples are the same wherever decoding starts. Otherwise they are reproducible only if a
    new decoder starts at a multiple of it.
    """

    sample_rate_hz: int
    num_channels: int
    block_frames: int | None
    num_frames: int | None
    """As the file states it; None if only decoding can tell."""
    can_start_anywhere = True
    """Whether decoding may succeed behind a place where it failed."""
    marks_losses = False
    """Whether samples that are NaN are those that it could not decode."""
    complaint: str | None = None
    """The first thing that it said about damage that it read past."""

    def __init__(self) -> None:
        self._rest = np.zeros((0, self.num_channels), np.float32)

    def seek(self, frame: int) -> None:
        """Moves from the first frame to `frame`, or to the end if the file is shorter."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees the decoder, but leaves the file open."""
        raise NotImplementedError

    @classmethod
    def begin(cls, file: BinaryIO) -> Self:
        """Makes a decoder of this kind for a file that `open_decoder` found to want it."""
        raise NotImplementedError

    def has_met_the_end(self) -> bool:
        """Whether the file's last byte has been read, so that a failure means that the file breaks off."""
        return False

    def has_bytes_left(self) -> bool:
        """Whether more of the file is unread than a tag at its end may hold."""
        return False

    def read(self, num_frames: int) -> NDArray[np.float32]:
        """Some of the next samples [S, channels], at most `num_frames`; none at the file's end.

        Raises:
            AudioError: the next samples cannot be decoded.
        """
        if not len(self._rest):
            self._rest = self._decode(num_frames)
        samples, self._rest = self._rest[:num_frames], self._rest[num_frames:]
        return samples

    def pass_over(self, num_frames: int) -> int:
        """Decodes and discards up to `num_frames` frames; returns how many there were."""
        return pass_over(self.read, num_frames)

    def _decode(self, num_frames: int) -> NDArray[np.float32]:
        """The next samples [S, channels], any number of them (ideally `num_frames`); none at the file's end."""
        raise NotImplementedError


def without_audio_suffix(name: str) -> str:
    """A name without the suffix of an audio file, if it has one."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in AUDIO_SUFFIXES else name


def pass_over(read: Callable[[int], NDArray[np.float32]], num_frames: int) -> int:
    """Reads and discards up to `num_frames` frames; returns how many there were."""
    passed = 0
    while passed < num_frames and (num_read := len(read(min(DECODED_AT_ONCE, num_frames - passed)))):
        passed += num_read
    return passed


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
        # What is named otherwise may be MPEG audio all the same, or begin like it.
        with mpeg_messages.heard(), soundfile.SoundFile(path) as sound:
            header = Header(sound.frames, sound.samplerate, sound.channels)
        with open(path, "rb") as file:  # noqa: PTH123
            return header if _reads_all(file, header) else None
    except (soundfile.SoundFileError, OSError):
        return None


def read_header(file: BinaryIO) -> Header:
    """Reads the header of an open file; decodes all of it if no header tells its length.

    Raises:
        AudioError: the file is empty, or its format is unknown.
        ConnectionError: its store cannot be reached.
    """
    with contextlib.closing(open_decoder(file, header_only=True)) as decoder:
        num_frames = decoder.num_frames
    if num_frames is None:
        with contextlib.closing(open_decoder(file)) as decoder:
            num_frames = decoder.pass_over(sys.maxsize)
    return Header(num_frames, decoder.sample_rate_hz, decoder.num_channels)


def open_decoder(file: BinaryIO, *, header_only: bool = False) -> Decoder:
    """Makes a decoder that starts at a file's first frame.

    Args:
        file: The open file; must be seekable.
        header_only: Only the decoder's attributes are wanted.

    Raises:
        AudioError: the file is empty, or its format is unknown.
        ConnectionError: its store cannot be reached.
    """
    if file.seek(0, io.SEEK_END) == 0:
        raise AudioError("empty", "the file has no bytes")
    file.seek(0)
    sound: _SoundFileDecoder | None = None
    refusal: AudioError | None = None
    try:
        sound = _SoundFileDecoder(file)
        position = file.tell()
        if _reads_all(file, sound.header) and (header_only or not ogg.lacks_pages(file)):
            file.seek(position)
            return sound
    except AudioError as error:
        if error.reason != "unreadable":  # the bytes, not what they hold
            raise
        refusal = error
    try:
        decoder = _PyAVDecoder(file, header_only=header_only)
    except AudioError as error:
        if sound is not None:
            file.seek(position)
            return sound
        raise AudioError(error.reason, f"{refusal.detail if refusal else ''} FFmpeg: {error.detail}") from error
    if sound is not None:
        sound.close()
    return decoder


def _reads_all(file: BinaryIO, header: Header) -> bool:
    """Whether libsndfile, which found this header, would read all that a file holds."""
    if not 0 < header.num_frames <= MAX_DURATION_S * header.sample_rate_hz:
        return False
    return is_believable(file, header.num_frames, header.sample_rate_hz)


class _SoundFileDecoder(Decoder):
    def __init__(self, file: BinaryIO) -> None:
        self._file = _WatchedFile(file)
        with self._failures("unreadable"):
            self._is_mpeg = self._file.may_be_mpeg()
        with self._failures("unreadable"), self._listening():
            self._sound = _ForwardSoundFile(self._file)
        self._is_mpeg = self._sound.format == "MP3"
        self.sample_rate_hz = self._sound.samplerate
        self.num_channels = self._sound.channels
        self.num_frames = self._sound.frames
        self.header = Header(self._sound.frames, self.sample_rate_hz, self.num_channels)
        is_memoryless = self._sound.subtype in MEMORYLESS_SUBTYPES
        self.block_frames = None if is_memoryless else round(BLOCK_S * self.sample_rate_hz)
        super().__init__()

    def has_met_the_end(self) -> bool:
        return self._file.has_met_the_end

    def has_bytes_left(self) -> bool:
        return self._file.num_bytes_left() > mpeg.NEGLIGIBLE_BYTES

    def seek(self, frame: int) -> None:
        lead_in = 0 if self.block_frames is None else min(frame, round(LEAD_IN_S * self.sample_rate_hz))
        with self._failures("undecodable"):
            if not self._sound.can_seek:
                self.pass_over(frame)
            else:
                with self._listening():
                    self._sound.seek(min(frame - lead_in, self._sound.frames))
                self.pass_over(lead_in)
        self.complaint = None  # in the lead-in an mp3 lacks bytes of frames before it, which is no damage

    def close(self) -> None:
        self._sound.close()

    @classmethod
    def begin(cls, file: BinaryIO) -> Self:
        file.seek(0)
        return cls(file)

    def _decode(self, num_frames: int) -> NDArray[np.float32]:
        at_once = num_frames if self.block_frames is None else DECODED_AT_ONCE
        with self._failures("undecodable"), self._listening():
            samples: NDArray[np.float32] = self._sound.read(at_once, dtype="float32", always_2d=True)
        return samples

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Keeps what the decoder of MPEG audio says off the terminal."""
        if not self._is_mpeg:
            yield
            return
        with mpeg_messages.heard() as messages:
            yield
        if messages and self.complaint is None:
            self.complaint = messages[0]

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
    """Remembers a failed read of a file, or a failed seek: libsndfile takes one for the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._failure: OSError | None = None
        self.has_met_the_end = False
        """Whether a read got less than it asked for."""
        self.tell = file.tell

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except ValueError:
            pass  # a damaged header may make libsndfile seek to before byte 0
        except OSError as failure:
            if failure.errno != errno.EINVAL:  # the same, told by the system
                self._failure = failure
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            num_bytes: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        except OSError as failure:
            self._failure = failure
            return 0
        self.has_met_the_end |= num_bytes < len(buffer)
        return num_bytes

    def num_bytes_left(self) -> int:
        position = self._file.tell()
        size = self._file.seek(0, io.SEEK_END)
        self._file.seek(position)
        return size - position

    def may_be_mpeg(self) -> bool:
        """Whether libsndfile may take it for MPEG audio: it begins with a frame or with tags. Back at byte 0 then."""
        start = bytearray(3)
        self.readinto(start)
        self.seek(0)
        return start == b"ID3" or (start[0] == 0xFF and start[1] >= 0xE0)

    def raise_failure(self) -> None:
        """Raises the last failure, if any, as an AudioError, or as a ConnectionError if the place is at fault."""
        if self._failure:
            raise AudioError(places.reason_of(self._failure), str(self._failure)) from self._failure


class _PyAVDecoder(Decoder):
    """Always decodes from the first frame: containers such as m4a have no sample-accurate seek."""

    block_frames = sys.maxsize
    can_start_anywhere = False
    marks_losses = True

    def __init__(self, file: BinaryIO, *, header_only: bool) -> None:
        self._stream = PyAVStream(file, to_the_end=wav_goes_on(file), header_only=header_only)
        self.sample_rate_hz = self._stream.sample_rate_hz
        self.num_channels = self._stream.num_channels
        self.num_frames = self._stream.num_frames
        super().__init__()

    def seek(self, frame: int) -> None:
        self.pass_over(frame)

    def _decode(self, num_frames: int) -> NDArray[np.float32]:
        return self._stream.read()

    def close(self) -> None:
        self._stream.close()

    @classmethod
    def begin(cls, file: BinaryIO) -> Self:
        return cls(file, header_only=False)


def _one_line(error: Exception) -> str:
    # Leaves out the repr of the file object, which soundfile puts before libsndfile's message.
    words = getattr(error, "error_string", None) or error
    return " ".join(str(words).split())
