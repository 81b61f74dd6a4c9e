"""Whether libsndfile would read all that a file holds: what its header says beside what lies in its bytes.

libsndfile ends where a header says that the audio ends. Files that were joined, streamed or cut, or that outgrew the
32 bits of a WAV's size, hold more, or less. Each check reads the file's beginning and end, at most a few times 64 KiB.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, BinaryIO, Literal

from pipeline.audio import mpeg

if TYPE_CHECKING:
    from collections.abc import Iterator

TAIL_BYTES = 2**16
# Chunks of a WAV are looked through up to this many: some hold thousands of markers, none so many chunks.
MAX_CHUNKS = 1_000
# The last frames of a FLAC that are looked at: one may be noise that looks like a header.
LAST_FRAMES = 3
# What may lie behind the last chunk without being audio: padding, a tag.
NEGLIGIBLE_BYTES = 1_024
TOLERANCE_S = 0.1
# The size of a chunk that is longer than 32 bits can say: EBU Tech 3306 and ITU-R BS.2088 give it in a chunk `ds64`.
_IN_DS64 = 2**32 - 1
_CHUNK_ID = re.compile(rb"[ -~]{4}")
_FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]", re.DOTALL)
_FLAC_BLOCK_SIZES = {1: 192, **{code: 576 << (code - 2) for code in range(2, 6)}}
_FLAC_BLOCK_SIZES |= {code: 256 << (code - 8) for code in range(8, 16)}


def is_believable(file: BinaryIO, num_frames: int, sample_rate_hz: int) -> bool:
    """Whether a file ends where libsndfile says: after `num_frames`. Leaves the file's position anywhere.

    Formats that are not looked into are believed.
    """
    size = file.seek(0, io.SEEK_END)
    start = _read(file, 0, 12)
    if _is_wav(start):
        return not wav_goes_on(file)
    if start[:4] == b"fLaC":
        return _flac_ends_at(file, size, num_frames, sample_rate_hz)
    if start[:4] == b"OggS":
        return _ogg_is_one_stream(file, size)
    if start[:3] == b"ID3" or mpeg.Frame.parse(start) is not None:
        return mpeg.is_as_long_as_stated(file, size)
    return True


def wav_goes_on(file: BinaryIO) -> bool:
    """Whether an open file is a WAV that holds more than its header says: what follows the data is no list of chunks.

    Leaves the file's position anywhere.
    """
    size = file.seek(0, io.SEEK_END)
    start = _read(file, 0, 12)
    if not _is_wav(start):
        return False
    order: Literal["little", "big"] = "big" if start[:4] == b"RIFX" else "little"
    position, has_data = 12, False
    data_bytes: int | None = None  # as a file of 64 bits says it
    for _ in range(MAX_CHUNKS):
        if has_data and size - position <= NEGLIGIBLE_BYTES:
            return False
        header = _read(file, position, 8)
        if len(header) < 8:
            return False
        id, length = header[:4], int.from_bytes(header[4:], order)
        if id == b"ds64":
            data_bytes = int.from_bytes(_read(file, position + 16, 8), order)
        if id == b"data" and length == _IN_DS64 and data_bytes is not None:
            length = data_bytes
        if has_data and (not _CHUNK_ID.fullmatch(id) or id in (b"RIFF", b"RIFX") or position + 8 + length > size + 1):
            return True
        if id == b"data":
            if length == 0 and size - position - 8 > NEGLIGIBLE_BYTES:
                return True
            has_data = True
        position += 8 + length + length % 2
    return False


def _is_wav(start: bytes) -> bool:
    return start[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and start[8:12] == b"WAVE"


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(max(0, offset))
    return file.read(length)


def _ogg_is_one_stream(file: BinaryIO, size: int) -> bool:
    """False if the last page belongs to another stream than the first."""
    first = _read(file, 0, 18)
    tail = _read(file, size - TAIL_BYTES, TAIL_BYTES)
    last = tail.rfind(b"OggS\0")
    return last < 0 or last + 18 > len(tail) or tail[last + 14 : last + 18] == first[14:18]


def _flac_ends_at(file: BinaryIO, size: int, num_frames: int, sample_rate_hz: int) -> bool:
    """False if frames near the file's end have other numbers than the last ones of `num_frames` samples."""
    info = _read(file, 0, 42)  # the marker, and STREAMINFO, which comes first
    if len(info) < 42 or info[4] & 0x7F:
        return True
    total = int.from_bytes(info[21:26], "big") & (2**36 - 1)
    if total == 0:
        return False
    fixed_size = int.from_bytes(info[10:12], "big")
    tail = _read(file, size - TAIL_BYTES, TAIL_BYTES)
    ends = list(_flac_frame_ends(tail, fixed_size))[-LAST_FRAMES:]
    return not ends or any(abs(end - num_frames) <= TOLERANCE_S * sample_rate_hz for end in ends)


def _flac_frame_ends(tail: bytes, fixed_size: int) -> Iterator[int]:
    """The samples up to and with each frame whose header is found in `tail` (RFC 9639, section 9.1)."""
    for match in _FLAC_SYNC.finditer(tail):
        header = tail[match.start() : match.start() + 16]
        number_length = _coded_length(header[4:5])
        size_code, rate_code = (header[2] >> 4, header[2] & 15) if len(header) > 2 else (0, 15)
        size_bytes = {6: 1, 7: 2}.get(size_code, 0)
        end = 4 + number_length + size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
        if not number_length or size_code == 0 or rate_code == 15 or len(header) <= end:
            continue
        if _crc8(header[:end]) != header[end]:
            continue
        number = _coded_number(header[4 : 4 + number_length])
        first = 4 + number_length
        size = _FLAC_BLOCK_SIZES.get(size_code) or int.from_bytes(header[first : first + size_bytes], "big") + 1
        yield (number if header[1] & 1 else number * fixed_size) + size


def _coded_length(first: bytes) -> int:
    """Bytes of a number that is coded as in UTF-8, by its first; 0 if it cannot be one."""
    if not first or 0x80 <= first[0] < 0xC0 or first[0] == 0xFF:
        return 0
    return 1 if first[0] < 0x80 else 8 - (first[0] ^ 0xFF).bit_length()


def _coded_number(coded: bytes) -> int:
    number = coded[0] if len(coded) == 1 else coded[0] & (0x7F >> len(coded))
    for byte in coded[1:]:
        number = number << 6 | byte & 0x3F
    return number


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
    return value
