"""Voices that take codes of pitch and style: from audio to codes to speech, kept in files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch

from model.vocoder.checkpoint import write_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.vocoder import Vocoder
from pipeline.errors import TwistError
from pipeline.speaking.clips import find_clips
from pipeline.speaking.expression import Expression, with_other_durations
from pipeline.speaking.script import read_script
from pipeline.speaking.spoken import resynthesize_clips
from pipeline.speaking.tokenizer import load_tokenizer
from pipeline.speaking.units import Units
from pipeline.speaking.voice import Voice, load_voice
from pipeline.synthetic.espeak import synthesize

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CONFIG: dict[str, Any] = {
    "num_embeddings": 100,
    "embedding_dim": 8,
    "model_in_dim": 8,
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": (3,),
    "resblock_dilation_sizes": ((1,),),
    "dur_predictor_params": {"encoder_embed_dim": 8, "var_pred_hidden_dim": 8},
}
WITH_CODES = {**CONFIG, "num_f0_tokens": 4, "num_style_tokens": 3, "model_in_dim": 24}


@dataclasses.dataclass(frozen=True)
class Loudness:
    """Stands in for a model: the quarter in which a stretch's level lies."""

    rate_hz: float
    num_codes: int
    fingerprint: str
    min_samples: int = 1

    def codes(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for wav in wavs:
            each = round(16_000 / self.rate_hz)
            pieces = wav[: len(wav) // each * each].reshape(-1, each)
            found.append((pieces.abs().amax(1) * self.num_codes).long().clamp(max=self.num_codes - 1))
        return found


PITCH, STYLE = Loudness(12.5, 4, "pitch"), Loudness(1.0, 3, "style")
EXPRESSION = Expression({"pitch": PITCH, "style": STYLE})


def write_voice(path: Path, settings: dict[str, Any], fingerprints: dict[str, str]) -> Path:
    """A vocoder of random weights, large enough for every input to be heard."""
    path.mkdir()
    torch.manual_seed(0)
    config = VocoderConfig(**settings)
    vocoder = Vocoder(config)
    with torch.no_grad():
        for name, parameter in vocoder.named_parameters():
            if name.startswith(("ups", "resblocks", "conv_p")):
                parameter.normal_(0, 0.18)
    write_vocoder(config, vocoder.state_dict(), path, None, fingerprints)
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    fingerprints = {"pitch": "pitch", "style": "style"}
    return load_voice(write_voice(tmp_path_factory.mktemp("voice") / "voice", WITH_CODES, fingerprints), device="cpu")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for name, text in (("a", "The river had risen in the night."), ("b", "Nobody had seen it.")):
        wav, rate_hz = synthesize(text, "en-us+f2")
        soundfile.write(folder / f"{name}.wav", wav.astype(np.float32) / 2**15, rate_hz)
    return folder


@pytest.mark.parametrize("predict_durations", [False, True])
def test_what_is_resynthesized_is_spoken_again_from_its_file(
    voice: Voice, recordings: Path, tmp_path: Path, predict_durations: bool
) -> None:
    clips = find_clips(str(recordings), str(tmp_path))
    tokenizer = load_tokenizer("hubert-tiny-25hz", device="cpu")
    made = list(
        resynthesize_clips(
            clips, tokenizer, voice, predict_durations=predict_durations, warn=print, expression=EXPRESSION
        )
    )
    assert len(made) == 2
    for spoken in made:
        spoken.write()
        script = read_script(spoken.output.with_name(f"{spoken.output.name}.json"))
        num_frames = int(script.units.known_durations.sum())
        assert abs(len(script.codes["pitch"]) * 2 - num_frames) <= 2
        assert abs(len(script.codes["style"]) * 25 - num_frames) <= 25
        assert len(set(script.codes["pitch"].tolist())) > 1
        (again,) = voice.batch([script.units], codes=[script.codes])
        np.testing.assert_array_equal(again, spoken.wav)
        other = {**script.codes, "pitch": (script.codes["pitch"] + 1) % 4}
        (changed,) = voice.batch([script.units], codes=[other])
        assert np.abs(changed - again).max() > 1e-4, "pitch changes nothing"


def test_codes_of_a_clip_do_not_depend_on_those_beside_it() -> None:
    generator = np.random.default_rng(0)
    wavs = [generator.uniform(-1, 1, size).astype(np.float32) for size in (17_000, 48_000, 33_333)]
    together = EXPRESSION.of_wavs(wavs, ["pitch", "style"])
    for wav, codes in zip(wavs, together, strict=True):
        (alone,) = EXPRESSION.of_wavs([wav], ["pitch", "style"])
        assert {name: values.tolist() for name, values in alone.items()} == {
            name: values.tolist() for name, values in codes.items()
        }
    assert EXPRESSION.of_wavs([], ["pitch"]) == []


def u16(*values: int) -> NDArray[np.uint16]:
    return np.array(values, np.uint16)


def test_units_keep_their_codes_when_they_last_longer_or_shorter() -> None:
    codes = {"pitch": u16(0, 1, 2, 3), "style": u16(2)}
    before, each = u16(2, 2, 3, 1), {"pitch": 2, "style": 25}
    same = with_other_durations(codes, before, before, each)
    assert same["pitch"].tolist() == [0, 1, 2, 2] and same["style"].tolist() == [2]
    longer = with_other_durations(codes, before, u16(4, 2, 2, 2), each)
    assert longer["pitch"].tolist() == [0, 0, 1, 2, 3]
    assert with_other_durations(codes, before, u16(1, 1, 1, 1), each)["pitch"].tolist() == [0, 2]


def test_voices_and_models_that_do_not_fit_are_refused(voice: Voice, tmp_path: Path) -> None:
    assert voice.code_fingerprints == {"pitch": "pitch", "style": "style"}
    EXPRESSION.require_fit(voice)
    with pytest.raises(TwistError, match="takes codes of style: name their model with --style-model"):
        Expression({"pitch": PITCH}).require_fit(voice)
    with pytest.raises(TwistError, match=r"another model of pitch \(pitch\) than this one \(others\)"):
        Expression({"pitch": Loudness(12.5, 4, "others"), "style": STYLE}).require_fit(voice)
    with pytest.raises(TwistError, match="knows 4 codes of pitch, but this model has 9"):
        Expression({"pitch": Loudness(12.5, 9, "pitch"), "style": STYLE}).require_fit(voice)
    with pytest.raises(TwistError, match="takes codes of pitch, which units alone do not have"):
        voice(Units(u16(1, 2), u16(3, 3)))
    plain = load_voice(write_voice(tmp_path / "plain", CONFIG, {}), device="cpu")
    Expression({}).require_fit(plain)
    EXPRESSION.require_fit(plain)


@pytest.mark.parametrize("codes", [[1], {"loudness": [1]}, {"pitch": [-1]}, {"pitch": 3}])
def test_scripts_with_other_codes_are_refused(codes: object, tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"units": [1, 2], "codes": codes}))
    with pytest.raises(TwistError, match="codes"):
        read_script(path)
