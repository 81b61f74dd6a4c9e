"""Audio in, units out: files, arrays and batches; names, folders and runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from model.artefacts import resolve
from model.official_files import ARTEFACTS
from pipeline.errors import TwistError
from pipeline.shards import open_dataset
from pipeline.speaking import tokenizer as tokenizers
from pipeline.speaking.names import FITTED_ON
from pipeline.speaking.tokenizer import Tokenizer, load_tokenizer
from pipeline.synthetic.espeak import synthesize
from pipeline.units.codebook_import import Imported

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def speech() -> tuple[NDArray[np.float32], int]:
    wav, rate_hz = synthesize("The river had risen in the night, and the road was under water.", "en-us+f2")
    return wav.astype(np.float32) / 2**15, rate_hz


@pytest.fixture(scope="module")
def clip(speech: tuple[NDArray[np.float32], int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    soundfile.write(path, *speech, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("hubert-tiny-25hz", device="cpu")


def test_a_batch_gives_what_each_clip_gives_alone(
    tokenizer: Tokenizer, clip: Path, speech: tuple[NDArray[np.float32], int]
) -> None:
    wav, rate_hz = speech
    alone = tokenizer(clip)
    both = tokenizer.batch([wav, wav[: rate_hz // 2]], rate_hz)
    np.testing.assert_array_equal(both[0].frames, alone.frames, "an array gives what its file gives")
    np.testing.assert_array_equal(both[1].frames, tokenizer(wav[: rate_hz // 2], rate_hz).frames)
    assert abs(alone.duration_s - len(wav) / rate_hz) < 0.09
    assert alone.codebook_fingerprint == tokenizer.codebook.fingerprint


def test_channels_are_downmixed(tokenizer: Tokenizer, speech: tuple[NDArray[np.float32], int]) -> None:
    wav, rate_hz = speech
    stereo = np.stack([wav, wav], axis=1)
    np.testing.assert_array_equal(tokenizer(stereo, rate_hz).frames, tokenizer(wav, rate_hz).frames)


def test_names_folders_and_runs_give_the_same_tokenizer(tokenizer: Tokenizer, spoken_run: Path) -> None:
    for source in ("hubert-tiny-25hz-km100", resolve("hubert-tiny-25hz-km100"), spoken_run, spoken_run / "codebook"):
        assert load_tokenizer(source, device="cpu").codebook.fingerprint == tokenizer.codebook.fingerprint
    assert open_dataset(str(spoken_run / "shards")).info["codebook"]["fingerprint"] == tokenizer.codebook.fingerprint


def test_audio_that_cannot_be_used_is_named(tokenizer: Tokenizer, clip: Path, tmp_path: Path) -> None:
    second = np.ones(16_000, np.float32)
    for audio, rate_hz, words in (
        (tmp_path / "none.wav", None, r"none\.wav cannot be used: missing"),
        (clip, 16_000, "leave sample_rate_hz out"),
        (second, None, "clip 0 is an array of samples; give their rate"),
        (second[:100], 16_000, "clip 0 is too short: 0.006 s"),
        (0 * second, 16_000, "clip 0 cannot be used: it is silent"),
        (np.nan * second, 16_000, "clip 0 cannot be used: not_finite"),
        (second, 10, "sample rate of 10 Hz"),
        (second.astype(np.int16), 16_000, "samples of type int16"),
        (np.ones((2, 16_000)), 16_000, r"shape \[2, 16000\]"),
    ):
        with pytest.raises(TwistError, match=words):
            tokenizer(audio, rate_hz)


def test_a_folder_without_a_codebook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="holds no codebook"):
        load_tokenizer(tmp_path)


def test_each_published_codebook_names_the_encoder_and_layer_it_was_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    described = []
    centroids = np.zeros((2, 3), np.float32)
    monkeypatch.setattr(tokenizers, "resolve", lambda name: name)
    monkeypatch.setattr(
        tokenizers.codebook_import, "read", lambda _, name: Imported({"centroids": centroids}, name, "0", None)
    )
    monkeypatch.setattr(
        tokenizers,
        "describe_encoder",
        lambda encoder: described.append((encoder.path, encoder.layer)) or {"fingerprint": "x"},
    )
    for name, fitted_on in FITTED_ON.items():
        book = tokenizers.find_codebook(name)
        assert described[-1] == fitted_on
        assert book.facts["imported_from"] == name
        assert fitted_on[0] in ARTEFACTS
        assert name in ARTEFACTS
