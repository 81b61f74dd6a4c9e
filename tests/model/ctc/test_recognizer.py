from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from model.ctc import recognizer
from model.ctc.recognizer import load_recognizer
from pipeline.errors import TwistError
from tests.ctc_models import VOCABULARY, write_ctc

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ctc")
    write_ctc(path)
    return path


def test_a_clip_is_heard_as_transformers_hears_it(folder: Path, tmp_path: Path) -> None:
    model = write_ctc(tmp_path)
    wavs = [torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in (16_000, 8_000, 16_000)]
    recognize = load_recognizer(str(folder), "cpu")
    extract = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    for wav, heard in zip(wavs, recognize(wavs), strict=True):
        values = extract(wav.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        with torch.inference_mode():
            expected = model(values).logits[0].log_softmax(dim=-1)
        assert len(heard) == recognize.num_frames(len(wav))
        torch.testing.assert_close(heard, expected, atol=1e-4, rtol=1e-4)


def test_windows_of_long_audio_give_each_frame_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer, "WINDOW_S", 2)
    monkeypatch.setattr(recognizer, "CONTEXT_S", 1)
    recognize = load_recognizer(str(folder), "cpu")
    for num_samples in (31_999, 32_000, 47_999, 48_001, 80_000, 111_111):
        (heard,) = recognize([torch.randn(num_samples)])
        assert len(heard) == recognize.num_frames(num_samples), f"{num_samples} samples"
        torch.testing.assert_close(heard.exp().sum(dim=-1), torch.ones(len(heard)))


def test_the_vocabulary_is_the_models_own(folder: Path) -> None:
    recognize = load_recognizer(str(folder), "cpu")
    assert (recognize.blank, recognize.separator, recognize.hop_samples) == (0, VOCABULARY.index("|"), 320)
    assert recognize.alphabet == {letter: place for place, letter in enumerate(VOCABULARY) if place > 4}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"holds no CTC model of transformers: it has no config\.json"):
        load_recognizer(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    with pytest.raises(TwistError, match="cannot be loaded as a CTC model of transformers"):
        load_recognizer(str(tmp_path))
