"""Reading audio on S3 asks for no byte twice, however often a decoder goes back and forth."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from pipeline.audio.read import Clip, Span, probe, read_clips
from pipeline.files import s3
from pipeline.files.range_reader import KEPT_RANGES, RangeReader

RATE_HZ = 16_000


@pytest.mark.parametrize("format_", ["WAV", "FLAC", "MP3", "OGG"])
@pytest.mark.parametrize("duration_s", [1, 200])
def test_no_byte_of_audio_is_asked_for_twice(
    format_: str, duration_s: int, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    if format_ in ("MP3", "OGG"):
        duration_s = min(duration_s, 20)
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE_HZ * duration_s)
    path = tmp_path / f"a.{format_.lower()}"
    soundfile.write(path, noise, RATE_HZ, format=format_)
    content = path.read_bytes()
    asked: list[tuple[int, int]] = []

    def read_range(_: str, start: int, length: int) -> bytes:
        asked.append((start, length))
        return content[start : start + length]

    monkeypatch.setattr(s3, "size", lambda _: len(content))
    monkeypatch.setattr(s3, "read_range", read_range)
    uri = f"s3://bucket/{path.name}"
    info = probe(uri)
    assert info == probe(str(path))
    assert len(asked) <= 2, "a header takes the beginning and perhaps the end"
    asked.clear()
    (there,), (here,) = (list(read_clips([Span(one, None, 0, info.duration_s)])) for one in (uri, str(path)))
    assert isinstance(there, Clip) and isinstance(here, Clip)
    assert np.array_equal(there.wav, here.wav)
    assert sum(length for _, length in asked) <= len(content) + s3.READ_AHEAD_BYTES, asked
    assert len(asked) <= 2 + len(content) // s3.READ_AHEAD_BYTES, asked


def test_what_is_kept_is_bounded_and_read_right() -> None:
    content = np.random.default_rng(0).bytes(10_000)
    asked: list[int] = []

    def read_range(start: int, length: int) -> bytes:
        asked.append(length)
        return content[start : start + length]

    raw = RangeReader(len(content), read_range, kept_bytes=100)
    file = io.BufferedReader(raw, 100)
    generator = np.random.default_rng(1)
    for _ in range(500):
        start, length = (int(n) for n in generator.integers(0, [10_100, 300]))
        file.seek(start)
        assert file.read(length) == content[start : start + length]
        assert len(raw._kept) <= KEPT_RANGES and all(len(data) <= 100 for _, data in raw._kept)
    file.seek(0, io.SEEK_END)
    assert file.tell() == len(content) and file.read(1) == b""
    num_asked = len(asked)
    file.seek(0)
    first = file.read()
    assert first == content and len(asked) > num_asked


def test_a_file_that_became_shorter_ends() -> None:
    file = io.BufferedReader(RangeReader(1000, lambda start, length: b"x" * max(0, min(length, 10 - start)), 100), 100)
    assert file.read() == b"x" * 10
