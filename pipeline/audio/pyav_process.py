"""A process that decodes audio with PyAV (FFmpeg): what crashes or hangs in it costs a file, not a command.

Run by pyav.py as `python -m pipeline.audio.pyav_process SOCKET`. Each message on the socket brings two open files, the
audio and a pipe, and says in JSON what to do. The answer goes through the pipe, as messages of a letter and a length
(HEADER):

    H   so many bytes of JSON: sample_rate_hz, num_channels, num_frames (null if unknown)
    S   so many bytes of samples [frames, channels], float32
    L   so many frames are lost
    O   as many as the number of the error with which the system refused to read the file
    X   so many bytes of text: what is wrong with the file, or where it breaks off
    E   the end

Imports next to nothing of this project, so that it starts at once.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import resource
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

from pipeline.files.range_reader import RangeReader

if TYPE_CHECKING:
    from collections.abc import Iterator

# What FFmpeg may take a file for. Not: playlists, SDP, concat and whatever else opens files or ports of its own.
FORMATS = (
    "mov,mp4,m4a,matroska,webm,mp3,aac,ogg,flac,wav,w64,aiff,au,caf,asf,amr,amrnb,amrwb,mpegts,mpeg,avi,flv,ac3,eac3,"
    "dts,truehd,ape,wv,tta,mpc,mpc8,rm,voc,gsm,nistsphere,sox,tak,dsf,loas,oma"
)
# Containers whose stated length is exact to a packet or two.
EXACT_FORMATS = ("mov", "matroska")
# More memory than any sound file needs.
MAX_MEMORY_BYTES = 2 * 2**30
# A jump in a damaged file's time stamps beyond this is damage too, and no measure of what is lost. Those of an Ogg have
# checksums.
MAX_LOST_S = 60.0
MAX_LOST_OF_OGG_S = 3600.0
# Frames of Vorbis come this much too early or too late, but for their sum.
OGG_JITTER_S = 0.05
MESSAGE_BYTES = 2**12
HEADER = struct.Struct("<cI")
OGG_PAGE = b"OggS"
# One that begins a stream: version 0, and the flag for that alone.
OGG_FIRST_PAGE = OGG_PAGE + b"\0\2"
OGG_HEADER_BYTES = 27 + 255
SCANNED_AT_ONCE = 2**20


def main(control: socket.socket) -> None:
    """Answers until the other side hangs up."""
    import av

    av.logging.set_level(None)  # what is wrong with a file is said in a drop, not on the terminal
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        if not message:
            return
        audio, pipe = descriptors
        try:
            with os.fdopen(pipe, "wb", 2**16) as answer:
                request = json.loads(message)
                # Not the file's own position: the other process has that too.
                file = io.BufferedReader(RangeReader(request["length"], functools.partial(_read_range, audio)))
                _answer(av, file, request, answer)
        except BrokenPipeError:
            pass  # no more is wanted
        finally:
            os.close(audio)


def _read_range(descriptor: int, start: int, length: int) -> bytes:
    return os.pread(descriptor, length, start)


def _answer(av: Any, file: Any, request: dict[str, Any], answer: Any) -> None:
    options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
    if request["to_the_end"]:
        options["ignore_length"] = "1"
    try:
        # FFmpeg ends where the next link of a chained Ogg has another rate or coding.
        facts: dict[str, Any] = {}
        for link in links(file, request["length"]):
            with av.open(link, options=options, metadata_errors="replace") as container:
                stream = _audio_stream(container)
                if not facts:
                    facts = {
                        "sample_rate_hz": stream.rate,
                        "num_channels": stream.layout.nb_channels,
                        "num_frames": _stated_frames(container, stream),
                    }
                    # Packed: PyAV 15 to 18 crash on planar samples of 8 channels.
                    target = {"format": "flt", "layout": stream.layout, "rate": stream.rate}
                    _write(answer, b"H", json.dumps(facts).encode())
                    if request["header_only"]:
                        break
                _decode(av, container, stream, target, answer)
        answer.write(HEADER.pack(b"E", 0))
    except (av.FFmpegError, OSError, ValueError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError) and error.errno:
            answer.write(HEADER.pack(b"O", error.errno))
            return
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        _write(answer, b"X", " ".join(str(words).split()).encode())


def _audio_stream(container: Any) -> Any:
    streams = container.streams.audio
    if not streams or streams[0].codec_context is None or not streams[0].rate:
        raise ValueError("it holds no audio of a known coding")
    stream = streams[0]
    if stream.codec_context.name == "flac":  # else FFmpeg passes noise on for damaged frames
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    return stream


def links(file: Any, length: int) -> Iterator[Any]:
    """The parts of a chained Ogg, each as a file; any other file as it is.

    A part begins with pages that begin a stream (RFC 3533, section 6), behind pages that do not.
    """
    starts = list(_starts_of_links(file, length))
    if len(starts) < 2:
        file.seek(0)
        yield file
        return
    for start, end in itertools.pairwise([0, *starts[1:], length]):
        yield io.BufferedReader(RangeReader(end - start, functools.partial(_read_part, file, start)))


def _read_part(file: Any, offset: int, start: int, length: int) -> bytes:
    file.seek(offset + start)
    data: bytes = file.read(length)
    return data


def _starts_of_links(file: Any, length: int) -> Iterator[int]:
    file.seek(0)
    if file.read(4) != OGG_PAGE:
        return
    behind_a_first_page = -1
    for position in range(0, length, SCANNED_AT_ONCE):
        file.seek(position)
        window = file.read(SCANNED_AT_ONCE + len(OGG_FIRST_PAGE) - 1)
        found = window.find(OGG_FIRST_PAGE)
        while found >= 0:
            place = position + found
            file.seek(place)
            header = file.read(OGG_HEADER_BYTES)
            if len(header) > 26 and header[18:22] == bytes(4):  # its number in the stream
                if place != behind_a_first_page:
                    yield place
                behind_a_first_page = place + 27 + header[26] + sum(header[27 : 27 + header[26]])
            found = window.find(OGG_FIRST_PAGE, found + 1)


def _stated_frames(container: Any, stream: Any) -> int | None:
    if container.format.name.split(",")[0] in EXACT_FORMATS and (stream.duration or container.duration):
        seconds = stream.duration * stream.time_base if stream.duration else container.duration / 1_000_000
        frames: int = round(seconds * stream.rate)
        return frames
    return None


def _decode(av: Any, container: Any, stream: Any, target: dict[str, Any], answer: Any) -> None:
    rate_hz, num_channels = target["rate"], target["layout"].nb_channels
    resampler, form = av.AudioResampler(**target), None
    is_ogg = container.format.name == "ogg"
    has_failed, end_s, left_s = False, None, MAX_LOST_OF_OGG_S
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            has_failed = True
            continue
        for frame in frames:
            lost_s = 0.0 if end_s is None or frame.time is None else frame.time - end_s
            # FFmpeg passes over lost pages of an Ogg without a failure; time stamps alone tell of them.
            has_lost = lost_s > OGG_JITTER_S if is_ogg else has_failed
            if has_lost and 0 < lost_s <= (left_s if is_ogg else MAX_LOST_S):
                left_s -= lost_s  # a file of small pages could tell of any number of hours
                _write_lost(answer, round(lost_s * rate_hz), round(MAX_LOST_S * rate_hz))
                end_s = frame.time
            has_failed = False
            if not is_ogg or end_s is None:
                end_s = frame.time
            if end_s is not None:
                end_s += frame.samples / frame.sample_rate
            # In joined files the form of samples may change.
            if (frame.format.name, frame.layout.name, frame.sample_rate) != form:
                if form is not None:
                    _write_samples(answer, resampler.resample(None), num_channels)
                    resampler = av.AudioResampler(**target)
                form = (frame.format.name, frame.layout.name, frame.sample_rate)
            frame.pts = None
            _write_samples(answer, resampler.resample(frame), num_channels)
    if form is not None:
        _write_samples(answer, resampler.resample(None), num_channels)


def _write_lost(answer: Any, num_frames: int, at_once: int) -> None:
    for first in range(0, num_frames, at_once):
        answer.write(HEADER.pack(b"L", min(at_once, num_frames - first)))


def _write_samples(answer: Any, frames: list[Any], num_channels: int) -> None:
    for frame in frames:  # a plane may be longer than its samples
        _write(answer, b"S", bytes(frame.planes[0])[: frame.samples * num_channels * 4])


def _write(answer: Any, kind: bytes, content: bytes) -> None:
    answer.write(HEADER.pack(kind, len(content)))
    answer.write(content)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(socket.socket(fileno=int(sys.argv[1])))
