"""Clips are scaled to one level as a whole, so that units do not depend on loudness."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.artefacts import resolve
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.encoder.level import LOWEST_DBFS, at_level, dbfs, level_dbfs_of
from model.official_files import ARTEFACTS
from pipeline.errors import TwistError
from pipeline.synthetic.espeak import synthesize
from pipeline.units import codebook
from pipeline.units.encode import UnitEncoder, encoder_settings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

EMBEDDED = EncoderConfig("hubert", "hubert-tiny-25hz", layer=3, device="cpu")
GAINS_DB = (-50, -40, -20, -6, 6, 20)  # at -60 the clips are below LOWEST_DBFS


def noise(num_samples: int, rms: float) -> torch.Tensor:
    return rms * torch.randn(num_samples, generator=torch.Generator().manual_seed(0))


def gained(wav: NDArray[np.float32], gain_db: float) -> NDArray[np.float32]:
    return (wav * np.float32(10 ** (gain_db / 20))).astype(np.float32)


@pytest.fixture(scope="module")
def encode() -> UnitEncoder:
    return UnitEncoder(EMBEDDED, codebook.load(resolve("hubert-tiny-25hz-km100")))


@given(gain_db=st.floats(-50, 20), level_dbfs=st.floats(-80, 0))
def test_the_level_is_the_one_that_is_asked_for(gain_db: float, level_dbfs: float) -> None:
    wav = noise(4_000, 0.1) + 0.3  # an offset is no sound
    scaled = at_level(wav * 10 ** (gain_db / 20), level_dbfs)
    assert scaled.dtype == torch.float32
    assert dbfs(scaled) == pytest.approx(level_dbfs, abs=1e-3)
    torch.testing.assert_close(scaled, at_level(wav, level_dbfs), rtol=1e-5, atol=1e-6)


def test_silence_stays_silent_and_its_noise_quiet() -> None:
    assert dbfs(torch.zeros(9)) == -math.inf
    assert dbfs(torch.full((9,), 0.5)) == -math.inf
    assert not at_level(torch.zeros(9), -24.0).any()
    dither = noise(4_000, 10 ** (-110 / 20))
    assert dbfs(at_level(dither, -24.0)) == pytest.approx(-110 - LOWEST_DBFS - 24, abs=0.1)


def test_units_are_the_same_at_every_gain(encode: UnitEncoder) -> None:
    clips = []
    for voice in ("en-us", "en-gb-scotland+f3"):
        samples, rate_hz = synthesize("The quiet harbour slept. Then, after a while, she sold fish.", voice)
        assert rate_hz == 22_050
        clips.append(samples[: len(samples) // 3 * 2].astype(np.float32) / 2**15)
    as_recorded = encode(clips)
    for gain_db in GAINS_DB:
        at_gain = encode([gained(clip, gain_db) for clip in clips])
        for one, other in zip(as_recorded, at_gain, strict=True):
            np.testing.assert_array_equal(one, other, f"{gain_db} dB changes units")
    for clip, units in zip(clips, as_recorded, strict=True):
        np.testing.assert_array_equal(encode([clip])[0], units, "its neighbours' level counts")


def test_units_of_recordings_are_the_same_at_every_gain(encode: UnitEncoder, speech: Path) -> None:
    paths = sorted((speech / "LibriSpeech").rglob("*.flac"))[:4]
    clips = [soundfile.read(path, dtype="float32")[0][:160_000] for path in paths]
    as_recorded = encode(clips)
    for gain_db in (-40, 10):
        for one, other in zip(as_recorded, encode([gained(clip, gain_db) for clip in clips]), strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_a_level_loudness_changes_features() -> None:
    wav = noise(8_000, 0.05)
    plain = load_encoder(EncoderConfig("hubert", "hubert-tiny-25hz", layer=3, device="cpu", level_dbfs="unchanged"))
    assert not torch.allclose(plain.encode([wav])[0], plain.encode([wav / 100])[0], atol=0.1)
    leveled = load_encoder(EMBEDDED)
    torch.testing.assert_close(leveled.encode([wav])[0], plain.encode([at_level(wav, -24.0)])[0])


def test_the_level_is_the_clips_not_the_chunks() -> None:
    config = EncoderConfig(device="cpu", max_chunk_s=0.25, level_dbfs=-24.0)
    wav = torch.cat([noise(4_000, 0.001), noise(4_000, 0.1)])
    plain = load_encoder(EncoderConfig(device="cpu", max_chunk_s=0.25))
    torch.testing.assert_close(load_encoder(config).encode([wav])[0], plain.encode([at_level(wav, -24.0)])[0])


def test_levels_are_what_settings_or_else_the_checkpoint_say(tmp_path: Path) -> None:
    assert level_dbfs_of(EMBEDDED) == -24.0
    assert level_dbfs_of(EncoderConfig()) is None
    for official in ("mhubert-base-25hz",):
        assert official in ARTEFACTS
        assert level_dbfs_of(EncoderConfig("hubert", official)) is None, "made without one; and nothing is downloaded"
        assert level_dbfs_of(EncoderConfig("hubert", official, level_dbfs=-20.0)) == -20.0
    shutil.copytree(resolve("hubert-tiny-25hz"), tmp_path / "copy")
    config = EncoderConfig("hubert", str(tmp_path / "copy"), layer=3, device="cpu")
    assert level_dbfs_of(config) == load_encoder(config).describe()["level_dbfs"] == -24.0
    settings = tmp_path / "copy" / "preprocessor_config.json"
    content = json.loads(settings.read_text())
    for wrong in ("loud", True, 3, -200, [], float("nan")):
        settings.write_text(json.dumps({**content, "level_dbfs": wrong}))
        with pytest.raises(TwistError, match=r"level_dbfs .*; it must be a number from -80 to 0"):
            load_encoder(config)
    for absent in ({}, {"level_dbfs": None}):
        settings.write_text(json.dumps({"do_normalize": False, **absent}))
        assert level_dbfs_of(config) is load_encoder(config).describe()["level_dbfs"] is None
    settings.write_text(json.dumps({**content, "do_normalize": True}))
    assert load_encoder(config).describe()["level_dbfs"] is None, "normalized waveforms have no other level"


def test_stages_of_runs_without_a_level_have_the_settings_that_they_had() -> None:
    for config in (EncoderConfig(), EncoderConfig("hubert", "mhubert-base-25hz"), EncoderConfig("hubert", "/nowhere")):
        assert "level_dbfs" not in encoder_settings(config), "a run begun before there were levels could not go on"
    assert encoder_settings(EMBEDDED)["level_dbfs"] == -24.0
    unchanged = EncoderConfig("hubert", "hubert-tiny-25hz", layer=3, level_dbfs="unchanged")
    assert "level_dbfs" not in encoder_settings(unchanged), "how such a run goes on"
    fingerprint = "1ed3840ad2db19cc8b491ab28c4ad90eb6be61cd8cbdb4220469404384267f41"  # the embedded model's without one
    assert load_encoder(unchanged).fingerprint == fingerprint
