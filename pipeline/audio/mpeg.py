"""MPEG audio (mp3, mp2): whether a file is as long as its header says, without decoding it.

A file may begin with a frame that says how many bytes and frames follow (Xing, Info or VBRI). Without one, decoders
assume that all of the file has the first frame's bit rate.
"""

from __future__ import annotations

from typing import BinaryIO, NamedTuple, Self

# Where frames are looked at in a file that does not say its length, as shares of its audio bytes.
LOOKED_AT = (0.1, 0.3, 0.5, 0.7, 0.9)
# Long enough for two whole frames of the highest bit rate.
FRAMES_BYTES = 8_192
# What may lie behind the audio: tags.
NEGLIGIBLE_BYTES = 8_192
TOLERANCE = 0.01
# kbit/s by the bit rate's code, ISO 11172-3 and 13818-3; layer 1 is not met.
_KBITS = {
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class Frame(NamedTuple):
    """What a frame's header says."""

    bit_rate: int
    sample_rate_hz: int
    num_bytes: int
    is_mono: bool
    is_mpeg1: bool

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Reads the header that `data` begins with; None if it begins with none."""
        if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
            return None
        version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
        kbits = _KBITS.get((version == 3, layer))
        rate_code, bits_code = data[2] >> 2 & 3, data[2] >> 4
        if version == 1 or kbits is None or rate_code == 3 or bits_code in (0, 15):
            return None
        rate_hz = _RATES_HZ[version][rate_code]
        samples = 576 if layer == 3 and version != 3 else 1_152
        num_bytes = samples // 8 * kbits[bits_code] * 1000 // rate_hz + (data[2] >> 1 & 1)
        return cls(kbits[bits_code] * 1000, rate_hz, num_bytes, data[3] >> 6 == 3, version == 3)


def is_as_long_as_stated(file: BinaryIO, size: int) -> bool:
    """Whether the bytes of a file that begins with a frame, or with an ID3 tag, are those that it states.

    Without a statement: whether all frames looked at have one bit rate, so that its length can be reckoned.
    """
    start = _after_id3(file)
    head = _read(file, start, FRAMES_BYTES)
    first = Frame.parse(head)
    if first is None:
        return False
    stated = _stated_bytes(head, first)
    if stated is not None:
        return abs(size - start - stated) <= TOLERANCE * stated + NEGLIGIBLE_BYTES
    rates = {frame.bit_rate for share in LOOKED_AT if (frame := _next_frame(file, start, size, share)) is not None}
    return rates <= {first.bit_rate}


def _after_id3(file: BinaryIO) -> int:
    """The offset behind the ID3 tags that a file begins with."""
    offset = 0
    while (tag := _read(file, offset, 10))[:3] == b"ID3" and len(tag) == 10:
        length = 0
        for byte in tag[6:10]:
            length = length << 7 | byte & 0x7F
        offset += 10 + length + (10 if tag[5] & 0x10 else 0)
    return offset


def _stated_bytes(head: bytes, first: Frame) -> int | None:
    """The bytes of audio that a Xing, Info or VBRI frame states; None if there is none, or it leaves them out."""
    if head[36:40] == b"VBRI":
        return int.from_bytes(head[46:50], "big")
    side_info = (17 if first.is_mono else 32) if first.is_mpeg1 else (9 if first.is_mono else 17)
    xing = 4 + side_info
    if head[xing : xing + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(head[xing + 4 : xing + 8], "big")
    if not flags & 2:
        return None
    offset = xing + 8 + (4 if flags & 1 else 0)
    return int.from_bytes(head[offset : offset + 4], "big") or None


def _next_frame(file: BinaryIO, start: int, size: int, share: float) -> Frame | None:
    """The first frame behind a place in the file that is followed by another one."""
    data = _read(file, start + round((size - start) * share), FRAMES_BYTES)
    for offset in range(len(data) - 4):
        frame = Frame.parse(data[offset : offset + 4])
        if frame is not None:
            following = Frame.parse(data[offset + frame.num_bytes : offset + frame.num_bytes + 4])
            if following is not None and following.sample_rate_hz == frame.sample_rate_hz:
                return frame
    return None


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
