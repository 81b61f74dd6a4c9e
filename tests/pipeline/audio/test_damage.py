"""Damage costs the damaged stretch, and what is there is used, whatever a header says."""

from __future__ import annotations

import ctypes
import faulthandler
import io
import itertools
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import soundfile

from pipeline.audio import decoders, mpeg_messages, ogg
from pipeline.audio.read import AudioError, Clip, Span, probe, read_clips
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}
FORMATS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "opus": "OGG", "mp3": "MP3"}


def speech_like(duration_s: float, seed: int = 0, rate_hz: int = SAMPLE_RATE_HZ) -> NDArray[np.float32]:
    """Noise whose loudness changes, which no coder finds predictable."""
    rng = np.random.default_rng(seed)
    num = round(duration_s * rate_hz)
    loudness = np.interp(
        np.arange(num),
        np.arange(0, num + rate_hz, rate_hz // 4),
        rng.uniform(0.02, 0.4, len(np.arange(0, num + rate_hz, rate_hz // 4))),
    )
    return (loudness * rng.uniform(-1, 1, num)).astype(np.float32)


def encoded(wav: NDArray[np.float32], kind: str, rate_hz: int = SAMPLE_RATE_HZ, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, rate_hz, format=FORMATS[kind], subtype=options.get("subtype", SUBTYPES[kind]))
    return file.getvalue()


def clip_of(path: Path | str, start_s: float, end_s: float, reads_on_s: float | None = None) -> Clip:
    (clip,) = read_clips([Span(str(path), None, start_s, end_s, reads_on_s)])
    assert isinstance(clip, Clip), f"{path} gave {clip}"
    return clip


def total_s(clip: Clip) -> float:
    return sum(hole.end_s - hole.start_s for hole in clip.holes)


@pytest.fixture(scope="module")
def wav() -> NDArray[np.float32]:
    return speech_like(40.0)


# Damage in the middle


def test_damaged_bytes_of_a_flac_cost_less_than_a_second(tmp_path: Path, wav: NDArray[np.float32]) -> None:
    content = bytearray(encoded(wav, "flac"))
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    clip = clip_of(path, 0.0, 40.0)
    assert [hole.reason for hole in clip.holes] == ["undecodable"]
    assert 0 < total_s(clip) < 1.0
    whole = soundfile.read(io.BytesIO(encoded(wav, "flac")), dtype="float32")[0]
    for stretch in clip.stretches():
        np.testing.assert_array_equal(clip.wav[stretch], whole[stretch], "samples beside the damage differ")


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
def test_beside_damage_a_span_alone_gives_what_it_gives_among_others(
    tmp_path: Path, wav: NDArray[np.float32], kind: str
) -> None:
    content = bytearray(encoded(wav, kind))
    for share in (0.2, 0.55):
        place = round(len(content) * share)
        content[place : place + 300] = bytes(300)
    path = str(tmp_path / f"a.{kind}")
    (tmp_path / f"a.{kind}").write_bytes(content)
    rng = random.Random(0)
    edges = itertools.pairwise(np.linspace(0, 40, 8).tolist())
    spans = [Span(path, None, *edge) for edge in edges]
    spans += [Span(path, None, start, start + rng.uniform(0.5, 5)) for start in (rng.uniform(0, 34) for _ in range(6))]
    for span, among_others in zip(spans, read_clips(spans), strict=True):
        (alone,) = read_clips([span])
        if isinstance(alone, AudioError):
            assert isinstance(among_others, AudioError), span
            assert among_others.reason == alone.reason
        else:
            assert isinstance(among_others, Clip), span
            np.testing.assert_array_equal(among_others.wav, alone.wav, f"{span} depends on what was read before it")
            assert [(h.start_s, h.end_s) for h in among_others.holes] == [(h.start_s, h.end_s) for h in alone.holes]


@pytest.mark.parametrize("kind", ["ogg", "opus"])
@pytest.mark.parametrize("way", ["damaged", "missing", "two places", "behind the headers", "bad sectors"])
def test_lost_pages_of_an_ogg_keep_their_place(tmp_path: Path, wav: NDArray[np.float32], kind: str, way: str) -> None:
    wav = wav[: 20 * SAMPLE_RATE_HZ]
    sound = encoded(wav, kind)
    content = bytearray(sound)
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    if way == "missing":
        del content[pages[8] : pages[9]]
    elif way == "bad sectors":
        content[pages[6] - 100 : pages[12] + 100] = bytes(pages[12] - pages[6] + 200)
    else:
        for page in {"damaged": [8], "two places": [8, 13], "behind the headers": [3]}[way]:
            content[pages[page] + 200 : pages[page] + 300] = bytes(100)
    whole, hurt = tmp_path / f"whole.{kind}", tmp_path / f"hurt.{kind}"
    whole.write_bytes(sound)
    hurt.write_bytes(content)
    expected, clip = clip_of(whole, 0.0, 20.0), clip_of(hurt, 0.0, 20.0)
    assert clip.duration_s == pytest.approx(20.0, abs=0.07)
    assert [hole.reason for hole in clip.holes] == ["undecodable"] * (2 if way == "two places" else 1)
    longest_page_s = 1.3
    assert 0 < total_s(clip) < longest_page_s * (9 if way == "bad sectors" else len(clip.holes))
    for stretch in clip.stretches():
        # Noise is like no other stretch of itself. FFmpeg and libopus decode it a little differently.
        if len(heard := clip.wav[stretch][4_000:]):
            there = expected.wav[stretch][4_000:][: len(heard)]
            heard = heard[: len(there)]
            alike = np.dot(heard, there) / np.linalg.norm(heard) / np.linalg.norm(there)
            assert alike > 0.9, f"{stretch} has been moved"


def test_a_sound_ogg_lacks_no_pages(wav: NDArray[np.float32]) -> None:
    for kind in ("ogg", "opus"):
        content = encoded(wav[: 16_000 * 9], kind)
        for whole in (content, content + encoded(wav[16_000 * 9 : 16_000 * 12], kind)):
            assert not ogg.lacks_pages(io.BytesIO(whole))
        pages = [match.start() for match in re.finditer(b"OggS", content)]
        in_between = content[: pages[4]] + b"OggS, said nobody" + content[pages[4] :]
        assert not ogg.lacks_pages(io.BytesIO(in_between)), "nothing is missing"
        assert not ogg.lacks_pages(io.BytesIO(content[: pages[-1] + 40])), "it breaks off, which libsndfile tells"
        assert ogg.lacks_pages(io.BytesIO(content[: pages[4]] + content[pages[5] :]))
    assert not ogg.lacks_pages(io.BytesIO(encoded(wav, "flac")))
    assert not ogg.lacks_pages(io.BytesIO(b"OggS"))


def test_the_checksum_of_a_page(wav: NDArray[np.float32]) -> None:
    page = encoded(wav[:16_000], "opus").split(b"OggS")[2]
    page = b"OggS" + page
    remainder = 0
    for byte in page[:22] + bytes(4) + page[26:]:  # as RFC 3533 says it: x^32 + x^26 + ..., bit by bit
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x104C11DB7 if remainder & 2**31 else 0)) & 0xFFFFFFFF
    assert ogg.checksum(page) == remainder.to_bytes(4, "little") == page[22:26]


@pytest.mark.parametrize("num_bytes", [100, 200, 400, 4_096, 65_536])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_zeros_in_an_mp3_cost_no_more_than_some_seconds(tmp_path: Path, rate_hz: int, num_bytes: int) -> None:
    """At a few hundred of them libmpg123 stops as at the end of the file, without an error."""
    content = bytearray(encoded(speech_like(20.0, rate_hz=rate_hz), "mp3", rate_hz))
    lost_s = num_bytes / len(content) * 20.0
    place = len(content) // 2
    content[place : place + num_bytes] = bytes(num_bytes)
    (tmp_path / "a.mp3").write_bytes(content)
    assert total_s(clip_of(tmp_path / "a.mp3", 0.0, 20.0)) < lost_s + 5.0


def test_an_mp3_that_ends_with_pictures(tmp_path: Path) -> None:
    content = with_constant_rate(tmp_path, 44_100)
    (tmp_path / "a.mp3").write_bytes(content + b"APETAGEX" + bytes(80_000))
    clip = clip_of(tmp_path / "a.mp3", 0.0, probe(str(tmp_path / "a.mp3")).duration_s)
    assert clip.stretches()[0].stop / SAMPLE_RATE_HZ == pytest.approx(60.0, abs=1.0)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_samples_that_are_no_numbers_cost_a_tenth_of_a_second(tmp_path: Path, rate_hz: int) -> None:
    samples = speech_like(20.0, rate_hz=rate_hz)
    samples[12 * rate_hz] = np.nan
    samples[5 * rate_hz : 5 * rate_hz + 3] = np.inf
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
    clip = clip_of(tmp_path / "a.wav", 0.0, 20.0)
    assert np.isfinite(clip.wav).all()
    assert [hole.reason for hole in clip.holes] == ["not_finite"] * 2
    assert [round(hole.start_s + 0.05, 3) for hole in clip.holes] == [5.0, 12.0]
    assert total_s(clip) == pytest.approx(0.2, abs=1e-3)
    assert clip.whole == slice(round(clip.holes[1].end_s * 16_000), 20 * 16_000), "not the longest stretch"


def test_a_file_of_nothing_but_damage_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    (outcome,) = read_clips([Span(str(tmp_path / "a.wav"), None, 0.0, 1.0)])
    assert isinstance(outcome, AudioError)
    assert outcome.reason == "not_finite"


# Files that break off


@pytest.mark.parametrize("kind", SUBTYPES)
def test_what_is_left_of_a_file_is_used(tmp_path: Path, wav: NDArray[np.float32], kind: str) -> None:
    content = encoded(wav, kind)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content[: len(content) * 9 // 10])
    clip = clip_of(path, 0.0, 40.0)
    assert clip.duration_s == pytest.approx(36.0, abs=1.5)
    assert clip.duration_s + total_s(clip) == pytest.approx(40.0, abs=1e-6)
    assert clip.holes[-1].reason == "truncated"


def test_a_span_that_is_a_little_too_long_is_whole(tmp_path: Path, wav: NDArray[np.float32]) -> None:
    soundfile.write(tmp_path / "a.wav", wav, SAMPLE_RATE_HZ)
    assert clip_of(tmp_path / "a.wav", 30.0, 40.05).holes == ()
    clip = clip_of(tmp_path / "a.wav", 30.0, 40.3)
    assert clip.duration_s == 10.0
    assert total_s(clip) == pytest.approx(0.3)


# Files that hold more than they say


@pytest.mark.parametrize("kind", SUBTYPES)
@pytest.mark.parametrize("longer_first", [False, True])
def test_joined_files_are_read_to_the_end(tmp_path: Path, kind: str, longer_first: bool) -> None:
    lengths_s = (9.0, 5.0) if longer_first else (5.0, 9.0)
    pieces = [speech_like(length_s, seed) for seed, length_s in enumerate(lengths_s)]
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"".join(encoded(piece, kind) for piece in pieces))
    duration_s = probe(str(path)).duration_s
    assert duration_s == pytest.approx(14.0, abs=0.2)
    clip = clip_of(path, 0.0, duration_s)
    assert not clip.holes
    if kind in ("wav", "flac"):
        second = round(lengths_s[0] * SAMPLE_RATE_HZ)
        np.testing.assert_allclose(clip.wav[:second], pieces[0], atol=1e-4)
        np.testing.assert_allclose(clip.wav[-len(pieces[1]) :], pieces[1], atol=1e-4)


def with_data_size(wav: NDArray[np.float32], size: int) -> bytes:
    content = bytearray(encoded(wav, "wav"))
    place = content.index(b"data") + 4
    content[place : place + 4] = size.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("size", [0, 2 * 16_000 * 3, 2**32 - 1, 2**31])
def test_the_size_in_a_wav_is_not_believed(tmp_path: Path, size: int) -> None:
    """A recorder that crashed leaves 0, a pipe leaves the largest number; beyond 4 GiB the size begins anew."""
    wav = speech_like(8.0)
    (tmp_path / "a.wav").write_bytes(with_data_size(wav, size))
    assert probe(str(tmp_path / "a.wav")).duration_s == 8.0
    np.testing.assert_allclose(clip_of(tmp_path / "a.wav", 0.0, 8.0).wav, wav, atol=1e-4)


@pytest.mark.parametrize("mark", [b"RF64", b"BW64"])
@pytest.mark.parametrize("size", [0, 2 * 16_000 * 3, 2 * 16_000 * 8, 10**6])
def test_the_size_in_a_wav_of_64_bits_is_not_believed(tmp_path: Path, size: int, mark: bytes) -> None:
    wav = speech_like(8.0)
    file = io.BytesIO()
    soundfile.write(file, wav, SAMPLE_RATE_HZ, format="RF64", subtype="PCM_16")
    content = bytearray(file.getvalue())
    place = content.index(b"ds64") + 16
    content[:4], content[place : place + 8] = mark, size.to_bytes(8, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert probe(str(tmp_path / "a.wav")).duration_s == 8.0
    np.testing.assert_allclose(clip_of(tmp_path / "a.wav", 0.0, 8.0).wav, wav, atol=1e-4)


def test_chunks_behind_the_data_of_a_wav_are_no_audio(tmp_path: Path) -> None:
    content = encoded(speech_like(2.0), "wav") + b"LIST" + (30_000).to_bytes(4, "little") + bytes(30_000)
    (tmp_path / "a.wav").write_bytes(content)
    assert probe(str(tmp_path / "a.wav")).duration_s == 2.0


@pytest.mark.parametrize("rate_hz", [22_050, 44_100])
def test_an_mp3_that_does_not_say_how_long_it_is(tmp_path: Path, rate_hz: int) -> None:
    """Of constant rate and without a Xing header; libsndfile takes it for up to half a percent longer."""
    path = tmp_path / "a.mp3"
    path.write_bytes(with_constant_rate(tmp_path, rate_hz))
    duration_s = probe(str(path)).duration_s
    clip = clip_of(path, 0.0, duration_s)
    assert clip.duration_s == pytest.approx(60.0, abs=0.15)
    assert clip.duration_s + total_s(clip) == pytest.approx(duration_s, abs=0.1)


def with_constant_rate(tmp_path: Path, rate_hz: int) -> bytes:
    """An mp3 of a minute, 64 kbit/s, without a frame that says so."""
    samples = (speech_like(60.0, rate_hz=rate_hz) * 32767).astype(np.int16)
    path = tmp_path / "constant.mp3"
    options = {"write_xing": "0", "id3v2_version": "0"}
    with av.open(str(path), "w", format="mp3", options=options) as container:
        stream = container.add_stream("libmp3lame", rate=rate_hz, layout="mono")
        stream.bit_rate = 64_000
        for first in range(0, len(samples), 1152):
            frame = av.AudioFrame.from_ndarray(samples[None, first : first + 1152], format="s16p", layout="mono")
            frame.sample_rate = rate_hz
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


# Reading on


def test_what_lies_behind_the_last_span_is_read_or_counted(tmp_path: Path, wav: NDArray[np.float32]) -> None:
    soundfile.write(tmp_path / "a.flac", wav, SAMPLE_RATE_HZ)
    whole = clip_of(tmp_path / "a.flac", 0.0, 40.0).wav
    for start_s, end_s, reads_on_s, found_s in ((0.0, 20.0, 30.0, 20.0), (10.0, 20.0, 5.0, 5.0), (5.0, 39.0, 0.0, 0.0)):
        clip = clip_of(tmp_path / "a.flac", start_s, end_s, reads_on_s)
        assert clip.duration_s == pytest.approx(end_s - start_s + found_s)
        assert clip.unread_s == pytest.approx(40.0 - end_s - found_s)
        first = round(start_s * SAMPLE_RATE_HZ)
        np.testing.assert_array_equal(clip.wav, whole[first : first + len(clip.wav)])
    for end_s in (39.95, 40.0, 40.05):
        clip = clip_of(tmp_path / "a.flac", 30.0, end_s, 10.0)
        assert clip.duration_s == pytest.approx(min(end_s, 40.0) - 30.0), "less than a tenth of a second is rounding"
        assert clip.unread_s == 0
    assert clip_of(tmp_path / "a.flac", 30.0, 35.0).unread_s == 0, "only if it is asked for"


# Channels


def stereo(tmp_path: Path, left: NDArray[np.float32], right: NDArray[np.float32]) -> Path:
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), SAMPLE_RATE_HZ, subtype="FLOAT")
    return tmp_path / "a.wav"


def test_channels_that_cancel(tmp_path: Path) -> None:
    wav = speech_like(4.0)
    noise = 2e-4 * speech_like(4.0, 1)
    for right in (-wav, -wav + noise, -0.9 * wav):
        clip = clip_of(stereo(tmp_path, wav, right), 0.0, 4.0)
        np.testing.assert_allclose(np.abs(clip.wav), np.abs(wav), atol=1e-3)
        assert clip.remark and "of 2: the others are dead" in clip.remark


def test_channels_that_cancel_in_part_of_the_time(tmp_path: Path) -> None:
    wav = speech_like(4.0)
    turned = np.where(np.arange(len(wav)) < len(wav) // 2, wav, -wav)
    clip = clip_of(stereo(tmp_path, wav, turned), 0.0, 4.0)
    np.testing.assert_array_equal(clip.wav, wav)


def test_channels_that_cancel_beside_dead_ones(tmp_path: Path) -> None:
    wav = speech_like(4.0)
    silent, broken = np.zeros_like(wav), np.full_like(wav, np.nan)
    for others in ([silent], [silent] * 6, [broken, silent], [1e-3 * speech_like(4.0, 1)]):
        soundfile.write(tmp_path / "a.wav", np.stack([wav, -wav, *others], 1), SAMPLE_RATE_HZ, subtype="FLOAT")
        np.testing.assert_array_equal(np.abs(clip_of(tmp_path / "a.wav", 0.0, 4.0).wav), np.abs(wav))


def test_a_dead_or_damaged_channel_takes_nothing_from_the_other(tmp_path: Path) -> None:
    wav = speech_like(4.0)
    spoiled = wav.copy()
    spoiled[100] = np.nan
    for other in (np.zeros_like(wav), 0.001 * wav[::-1], np.full_like(wav, np.nan), spoiled):
        np.testing.assert_array_equal(clip_of(stereo(tmp_path, other, wav), 0.0, 4.0).wav, wav)


def test_channels_of_their_own_are_mixed(tmp_path: Path) -> None:
    one, two = speech_like(4.0, 1), speech_like(4.0, 2)
    for right in (one, two, 0.2 * two):
        clip = clip_of(stereo(tmp_path, one, right), 0.0, 4.0)
        np.testing.assert_allclose(clip.wav, (one + right) / 2, atol=1e-6)
        assert clip.remark is None


# What libmpg123 says


def test_what_the_decoder_of_mp3_says_is_told_once_by_us(
    tmp_path: Path,
    wav: NDArray[np.float32],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = encoded(wav, "mp3")
    content = bytearray(whole)
    for place in (10_000, 20_000, 30_000):
        content[place : place + 500] = bytes(500)
    (tmp_path / "damaged.mp3").write_bytes(content)
    (tmp_path / "whole.mp3").write_bytes(whole)
    monkeypatch.setattr(decoders, "BLOCK_S", 3.0)  # so that decoding begins amid frames that lean on others before
    for name in ("whole.mp3", "damaged.mp3"):
        spans = [Span(str(tmp_path / name), None, start_s, start_s + 8.0) for start_s in (0.0, 3.0, 12.5, 2.0, 30.0)]
        assert len(list(read_clips(spans))) == 5
    (tmp_path / "short.wav").write_bytes("hello".encode("utf-16"))
    with pytest.raises(AudioError):
        probe(str(tmp_path / "short.wav"))
    assert capfd.readouterr().err == "", "the library's own words reached the terminal"
    (said,) = caplog.messages
    assert "damaged.mp3 is damaged; what its decoder made of it was used, though it said: Illegal Audio-MPEG-" in said
    os.write(2, b"and standard error is as it was\n")
    assert capfd.readouterr().err == "and standard error is as it was\n"


def say(message: bytes) -> None:
    """What code of C would write to its standard error."""
    libc = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(libc, "stderr")
    libc.fputs(message, stream)
    libc.fflush(stream)


def test_what_others_say_while_it_is_listened_to_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with mpeg_messages.heard() as messages:
            say(b"a line of other code\nNote: Trying to resync...\n")
            assert capfd.readouterr().err == ""
        assert messages == ["Trying to resync..."]
        assert capfd.readouterr().err == "a line of other code\n"
    say(b"Note: of other code\n")
    assert capfd.readouterr().err == "Note: of other code\n"


def test_python_tracebacks_and_children_write_while_it_is_listened_to(capfd: pytest.CaptureFixture[str]) -> None:
    with mpeg_messages.heard() as messages:
        os.write(2, b"Note: by Python\n")
        faulthandler.dump_traceback(2)
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'by a program\\n')"], check=True)
        if (child := os.fork()) == 0:
            say(b"by a child\n")
            with mpeg_messages.heard():
                say(b"Note: heard by a child\n")
            os._exit(0)
        os.waitpid(child, 0)
        written = capfd.readouterr().err
    for line in ("Note: by Python\n", "most recent call first", "by a program\n", "by a child\n"):
        assert line in written
    assert messages == []


def test_no_file_is_blamed_for_what_another_thread_decodes(capfd: pytest.CaptureFixture[str]) -> None:
    with mpeg_messages.heard() as outer:
        with mpeg_messages.heard() as inner:
            say(b"Note: Trying to resync...\n")
        say(b"Note: Trying to resync...\n" * 100_000)
        with mpeg_messages.heard() as last:
            pass
    assert outer == inner == last == []
    with mpeg_messages.heard() as alone:
        say(b"Note: Trying to resync...\n")
    assert alone == ["Trying to resync..."]
    assert capfd.readouterr().err == ""


def test_many_threads_decode_damaged_mp3s(
    wav: NDArray[np.float32], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(encoded(wav, "mp3"))
    for place in (10_000, 20_000, 30_000):
        content[place : place + 500] = bytes(500)
    (tmp_path / "damaged.mp3").write_bytes(content)
    span = Span(str(tmp_path / "damaged.mp3"), None, 0.0, 8.0)
    (alone,) = read_clips([span])
    with ThreadPoolExecutor(8) as threads:
        for (clip,) in threads.map(lambda _: list(read_clips([span])), range(32)):
            np.testing.assert_array_equal(clip.wav, alone.wav)
    assert capfd.readouterr().err == ""
    say(b"as before\n")
    assert capfd.readouterr().err == "as before\n"
