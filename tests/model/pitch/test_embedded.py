"""The embedded pitch tokenizer: its size, and that it keeps how a recorded voice rises and falls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from model.artefacts import local_path
from model.pitch.contour import extract, interpolated
from model.pitch.tokenizer import load_pitch_tokenizer
from tests.model.pitch.test_contour import gliding, voice


def test_it_is_small_and_of_the_published_size() -> None:
    assert sum(path.stat().st_size for path in local_path("pitch-tiny").iterdir()) < 2**20
    tokenizer = load_pitch_tokenizer("pitch-tiny")
    assert (tokenizer.rate_hz, tokenizer.num_codes, tokenizer.extractor) == (12.5, 64, "nccf")
    assert sum(weight.numel() for weight in tokenizer.model.parameters()) == 200_194


def test_a_glide_comes_back_as_a_glide() -> None:
    tokenizer = load_pitch_tokenizer("pitch-tiny")
    contour = extract(voice(gliding(120, 200, 2.0)), "nccf")
    made = tokenizer.contour(tokenizer.codes_of_contour(contour), contour.mean_hz or 0.0)
    assert np.corrcoef(made.f0, contour.f0[: len(made)])[0, 1] > 0.9


def test_recorded_voices_keep_their_contour(speech: Path) -> None:
    tokenizer = load_pitch_tokenizer("pitch-tiny")
    paths = sorted((speech / "LibriSpeech/test-other").rglob("*.flac"))[:4]
    assert paths
    for path in paths:
        contour = extract(soundfile.read(path, dtype="float32")[0], "nccf")
        made = tokenizer.contour(tokenizer.codes_of_contour(contour), contour.mean_hz or 0.0)
        truth = interpolated(contour.f0)[: len(made)]
        correlation = np.corrcoef(made.f0, truth)[0, 1]
        assert correlation > 0.7, f"{path.name}: {correlation:.2f}"
        is_lost = made.is_voiced != contour.is_voiced[: len(made)]
        assert is_lost.mean() < 0.2, f"{path.name}: voicing is lost in {is_lost.mean():.0%} of frames"
