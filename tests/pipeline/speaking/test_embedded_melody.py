"""The embedded voice: its size beside its models, that it keeps a recording's melody, and has one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from model.artefacts import EMBEDDED_FOLDER, local_path
from model.pitch.contour import extract
from pipeline.evaluation.speech.prosody import likeness
from pipeline.speaking.code_models import load_code_models
from pipeline.speaking.expression import Expression
from pipeline.speaking.tokenizer import load_tokenizer
from pipeline.speaking.voice import load_voice

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOICE = "hifigan-tiny-25hz"


def test_pitch_style_and_voice_are_small_together() -> None:
    names = (VOICE, "pitch-tiny", "style-tiny-25hz")
    assert sum(path.stat().st_size for name in names for path in (EMBEDDED_FOLDER / name).iterdir()) < 6_000_000


def test_it_has_the_embedded_pitch_tokenizer() -> None:
    names = {"config.json": "pitch.json", "model.safetensors": "pitch.safetensors"}
    for ours, kept in names.items():
        assert (local_path("pitch-tiny") / ours).read_bytes() == (local_path(VOICE) / kept).read_bytes()


def test_units_alone_are_sung_too(speech: Path) -> None:
    """It predicts their pitch, and does not whisper."""
    tokenizer, voice = load_tokenizer("hubert-tiny-25hz", device="cpu"), load_voice(VOICE, device="cpu")
    assert voice.needed_codes == () and list(voice.num_codes) == ["pitch"]
    paths = sorted((speech / "LibriSpeech/test-other").rglob("*.flac"))[:4]
    wavs = voice.batch(tokenizer.of_wavs([soundfile.read(path, dtype="float32")[0] for path in paths]))
    f0 = np.concatenate([extract(wav, "nccf").f0 for wav in wavs])
    assert (f0 > 0).mean() > 0.3
    assert 150 < np.median(f0[f0 > 0]) < 280, "she speaks at 210 Hz"


def test_a_recording_keeps_its_melody(speech: Path) -> None:
    tokenizer, voice = load_tokenizer("hubert-tiny-25hz", device="cpu"), load_voice(VOICE, device="cpu")
    expression = Expression(load_code_models("pitch-tiny", None))
    expression.require_fit(voice)
    paths = sorted((speech / "LibriSpeech/test-other").rglob("*.flac"))[:4]
    wavs = [soundfile.read(path, dtype="float32")[0] for path in paths]
    units, codes = tokenizer.of_wavs(wavs), expression.of_wavs(wavs, ["pitch"])
    assert correlation(wavs, voice.batch(units, codes=codes)) > 0.6
    # Units alone do not tell it: with another clip's codes there is another melody.
    lengths = [len(of_clip["pitch"]) for of_clip in codes]
    others = [
        np.resize(of_clip["pitch"], length) for of_clip, length in zip(codes[1:] + codes[:1], lengths, strict=True)
    ]
    assert correlation(wavs, voice.batch(units, codes=[{"pitch": other} for other in others])) < 0.4


def correlation(recorded: list[NDArray[np.float32]], said: list[NDArray[np.float32]]) -> float:
    """Of log F0, the mean over clips; 0 for one in which little is voiced."""
    pairs = zip(recorded, said, strict=True)
    told = [likeness(wav, again, lambda one: extract(one, "nccf").f0).f0_correlation for wav, again in pairs]
    return float(np.mean([each or 0.0 for each in told]))
