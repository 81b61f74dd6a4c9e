"""What libsndfile cannot read is tried with PyAV, in a process of its own."""

from __future__ import annotations

import io
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
import soundfile

from pipeline.audio import pyav, pyav_process
from pipeline.audio.pyav import PyAVStream
from pipeline.audio.read import AudioError, AudioInfo, Clip, Span, probe, read_clips
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import WriteTone
    from numpy.typing import NDArray

CODECS = {"m4a": "aac", "webm": "libopus", "mka": "libopus", "ts": "aac", "aac": "aac", "wma": "wmav2", "caf": "alac"}


def tone(duration_s: float = 3.0, channels: int = 1) -> NDArray[np.float32]:
    times_s = np.arange(round(duration_s * 48_000)) / 48_000
    return np.stack([0.4 * np.sin(2 * np.pi * 300 * (k + 1) * times_s) for k in range(channels)]).astype(np.float32)


def write(path: Path, codec: str, samples: NDArray[np.float32], layout: str = "mono", **options: str) -> Path:
    """Writes samples [channels, S] at 48 kHz with FFmpeg, in the container that the path's suffix names."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=48_000, layout=layout)
        stream.bit_rate = 64_000 * len(samples)
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format=stream.codec_context.format or "fltp", layout=layout, rate=48_000)
        for first in range(0, samples.shape[1], size):
            piece = np.ascontiguousarray(samples[:, first : first + size].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=layout)
            frame.sample_rate = 48_000
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return path


def clip_of(path: Path) -> Clip:
    (clip,) = read_clips([Span(str(path), None, 0.0, probe(str(path)).duration_s)])
    assert isinstance(clip, Clip), f"{path} gave {clip}"
    return clip


def ogg(wav: NDArray[np.float32], coding: str, rate_hz: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, rate_hz, format="OGG", subtype=coding)
    return file.getvalue()


@pytest.mark.parametrize(
    "others",
    [[("VORBIS", 24_000)], [("OPUS", 16_000)], [("VORBIS", 8_000), ("OPUS", 24_000), ("VORBIS", 16_000)]],
    ids=str,
)
def test_links_of_other_rates_and_codings(others: list[tuple[str, int]], tmp_path: Path) -> None:
    parts = [("VORBIS", 16_000), *others]
    wavs = [tone(2.0 + number)[0][:: 48_000 // rate_hz] for number, (_, rate_hz) in enumerate(parts)]
    links = [ogg(wav, *part) for wav, part in zip(wavs, parts, strict=True)]
    (tmp_path / "a.ogg").write_bytes(b"".join(links))
    wav = clip_of(tmp_path / "a.ogg").wav
    assert len(wav) == pytest.approx(sum(2.0 + number for number in range(len(parts))) * SAMPLE_RATE_HZ, abs=1600)
    assert np.sqrt(np.mean(wav**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.05)
    found = list(pyav_process.links(io.BytesIO(b"".join(links)), sum(map(len, links))))
    assert [link.read() for link in found] == links


def test_what_is_no_chain_is_one_link(monkeypatch: pytest.MonkeyPatch) -> None:
    one = ogg(tone()[0], "VORBIS", 48_000)
    monkeypatch.setattr(pyav_process, "SCANNED_AT_ONCE", 999)
    for data in (one, one[:100], b"OggS", b"", b"RIFF" + one + one):
        (link,) = pyav_process.links(io.BytesIO(data), len(data))
        assert link.read() == data
    assert len(list(pyav_process.links(io.BytesIO(one + one), 2 * len(one)))) == 2


@pytest.mark.parametrize("suffix", CODECS)
def test_content_decides_not_the_name(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", CODECS[suffix], tone())
    info = probe(str(path))
    assert info.sample_rate_hz == 48_000
    assert info.duration_s == pytest.approx(3.0, abs=0.12)
    wav = clip_of(path).wav
    for other in ("mp3", "wav", "ogg", "opus"):
        renamed = path.rename(tmp_path / f"renamed.{other}")
        assert probe(str(renamed)) == info
        np.testing.assert_array_equal(clip_of(renamed).wav, wav)
        path = renamed


def test_a_flac_that_is_called_ogg(tmp_path: Path, write_tone: WriteTone) -> None:
    path = write_tone(tmp_path / "a.flac")
    assert probe(str(path.rename(tmp_path / "a.ogg"))) == AudioInfo(3.0, 16_000, 1)


@pytest.mark.parametrize("junk", [bytes(512), bytes(5_000), b"\xff\xfb" + bytes(30)])
def test_an_mp3_that_does_not_begin_with_a_frame(tmp_path: Path, junk: bytes) -> None:
    whole = io.BytesIO()
    soundfile.write(whole, 0.3 * np.sin(np.arange(48_000) / 9), SAMPLE_RATE_HZ, format="MP3")
    (tmp_path / "junk.mp3").write_bytes(junk + whole.getvalue())
    assert clip_of(tmp_path / "junk.mp3").duration_s == pytest.approx(3.0, abs=0.2)
    (tmp_path / "mid.mp3").write_bytes(whole.getvalue()[700:])
    assert clip_of(tmp_path / "mid.mp3").duration_s == pytest.approx(3.0, abs=0.3)


def test_eight_channels_of_aac(tmp_path: Path) -> None:
    """PyAV 15 to 18 crash where these are asked for as planes."""
    path = write(tmp_path / "a.m4a", "aac", tone(channels=8), "7.1")
    assert probe(str(path)).num_channels == 8
    assert clip_of(path).duration_s == pytest.approx(3.0, abs=0.1)


def test_a_stream_on_s3_is_read_too(tmp_path: Path, s3_folder: str) -> None:
    from pipeline.files import storage

    path = write(tmp_path / "a.m4a", "aac", tone())
    storage.write_bytes(f"{s3_folder}/a.m4a", path.read_bytes())
    assert probe(f"{s3_folder}/a.m4a") == probe(str(path))
    (clip,) = read_clips([Span(f"{s3_folder}/a.m4a", None, 0.5, 1.5)])
    assert isinstance(clip, Clip)
    assert len(clip.wav) == SAMPLE_RATE_HZ


# What opens other files or ports is not read


def test_formats_that_name_other_files_are_refused(tmp_path: Path, write_tone: WriteTone) -> None:
    neighbour = write_tone(tmp_path / "neighbour.wav")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    texts = {
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
        "concat": f"ffconcat version 1.0\nfile {neighbour.name}\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{neighbour.name}\n#EXT-X-ENDLIST\n",
    }
    for name, text in texts.items():
        for suffix in ("m4a", "wav", "aac"):
            path = tmp_path / f"{name}.{suffix}"
            path.write_text(text)
            began = time.monotonic()
            with pytest.raises(AudioError, match="unreadable"):
                probe(str(path))
            assert time.monotonic() - began < 15, f"{name} was waited for"


# Crashes and hangs


def test_a_decoder_that_crashes_costs_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.m4a", "aac", tone(60.0))
    with path.open("rb") as file:
        stream = PyAVStream(file)
        assert len(stream.read())
        os.kill(stream._process._process.pid, signal.SIGSEGV)
        with pytest.raises(AudioError, match=r"undecodable: the decoder crashed on it \(signal 11\)"):
            while len(stream.read()):
                pass
        stream.close()
    assert clip_of(path).duration_s == pytest.approx(60.0, abs=0.1), "the next file has another process"


def test_a_decoder_that_hangs_costs_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.m4a", "aac", tone(60.0))
    with path.open("rb") as file:
        stream = PyAVStream(file)
        monkeypatch.setattr(pyav, "PATIENCE_S", 0.2)
        os.kill(stream._process._process.pid, signal.SIGSTOP)
        with pytest.raises(AudioError, match=r"undecodable: the decoder gave nothing for 0\.2 s"):
            while len(stream.read()):
                pass
        stream.close()
    monkeypatch.undo()
    assert clip_of(path).duration_s == pytest.approx(60.0, abs=0.1)
