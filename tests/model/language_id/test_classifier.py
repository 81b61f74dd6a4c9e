from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from model.language_id.classifier import find_language_classifier, fingerprint_of_classifier, load_language_classifier
from pipeline.errors import TwistError
from tests.language_classifiers import (
    ECAPA_LABELS,
    WHISPER_LANGUAGES,
    write_ecapa,
    write_other,
    write_wav2vec2,
    write_whisper,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = ("whisper", "wav2vec2", "ecapa")
WRITERS: dict[str, Callable[[Path], object]] = {
    "whisper": write_whisper,
    "wav2vec2": write_wav2vec2,
    "ecapa": write_ecapa,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each kind."""
    root = tmp_path_factory.mktemp("classifiers")
    for kind, write in WRITERS.items():
        write(root / kind)
    return {kind: root / kind for kind in KINDS}


def clips(*num_samples: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(n, generator=generator) for n in num_samples]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_told_by_the_files(folders: dict[str, Path], kind: str) -> None:
    assert find_language_classifier(str(folders[kind])) == (folders[kind], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities(folders: dict[str, Path], kind: str) -> None:
    classifier = load_language_classifier(str(folders[kind]), "cpu")
    wavs = clips(16_000, 24_000, 16_000)
    told = classifier(wavs)
    assert told.shape == (3, len(classifier.labels))
    assert torch.allclose(told.sum(dim=1), torch.ones(3), atol=1e-5)
    assert told.std() > 1e-4, "the clips are told alike whatever they hold"


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_gives_the_same_alone_as_among_others(folders: dict[str, Path], kind: str) -> None:
    classifier = load_language_classifier(str(folders[kind]), "cpu")
    wavs = clips(16_000, 24_000, 16_000, 8_000, 24_000, 16_000)
    together = classifier(wavs)
    for number, wav in enumerate(wavs):
        torch.testing.assert_close(classifier([wav])[0], together[number], atol=1e-5, rtol=1e-4)
    assert classifier([]).shape == (0, len(classifier.labels))


def test_labels(folders: dict[str, Path]) -> None:
    labels = {kind: load_language_classifier(str(folders[kind]), "cpu").labels for kind in KINDS}
    assert sorted(labels["whisper"]) == sorted(WHISPER_LANGUAGES)
    assert labels["wav2vec2"] == ("eng", "deu", "cmn")
    assert labels["ecapa"] == tuple(label.partition(":")[0] for label in ECAPA_LABELS)


def test_whisper_agrees_with_its_own_detection(folders: dict[str, Path]) -> None:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    wavs = clips(16_000, 40_000, 80_000)
    classifier = load_language_classifier(str(folders["whisper"]), "cpu")
    told = classifier(wavs)
    model = WhisperForConditionalGeneration.from_pretrained(folders["whisper"])
    extract = WhisperFeatureExtractor.from_pretrained(folders["whisper"])
    for wav, row in zip(wavs, told, strict=True):
        features = extract(wav.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        token = int(model.detect_language(features))
        assert model.generation_config.lang_to_id[f"<|{classifier.labels[int(row.argmax())]}|>"] == token


def test_wav2vec2_agrees_with_transformers_pipeline(folders: dict[str, Path]) -> None:
    from transformers import pipeline

    classify = pipeline("audio-classification", model=str(folders["wav2vec2"]))
    classifier = load_language_classifier(str(folders["wav2vec2"]), "cpu")
    for wav in clips(16_000, 24_000):
        expected = {row["label"]: row["score"] for row in classify(wav.numpy(), top_k=3)}
        told = dict(zip(classifier.labels, classifier([wav])[0].tolist(), strict=True))
        assert told == pytest.approx(expected, abs=1e-4)


def test_the_fingerprint_is_that_of_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    fingerprints = {fingerprint_of_classifier(folder) for folder in folders.values()}
    copy = tmp_path / "copy"
    shutil.copytree(folders["ecapa"], copy)
    assert fingerprint_of_classifier(copy) in fingerprints
    (copy / "notes.md").write_text("of no account")
    assert fingerprint_of_classifier(copy) in fingerprints
    write_ecapa(copy, seed=1)
    assert fingerprint_of_classifier(copy) not in fingerprints


# Mistakes


def test_what_is_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_other(tmp_path / "hubert")
    with pytest.raises(TwistError, match="holds a HubertModel, which tells no languages"):
        find_language_classifier(str(tmp_path / "hubert"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TwistError, match="holds no classifier of languages"):
        find_language_classifier(str(tmp_path / "empty"))


def test_nothing_of_this_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(TwistError, match=r"no folder someone/nothing, .*there is no network.* name its folder"):
        find_language_classifier("someone/nothing")


def test_a_whisper_of_english_only(tmp_path: Path) -> None:
    write_whisper(tmp_path, multilingual=False)
    with pytest.raises(TwistError, match="knows English only; take a multilingual Whisper"):
        load_language_classifier(str(tmp_path), "cpu")


def test_damaged_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    for number, (name, content) in enumerate(
        [
            ("classifier.ckpt", b"no tensors"),
            ("label_encoder.txt", b"'en: English' => 1\n"),
            ("classifier.ckpt", (folders["ecapa"] / "embedding_model.ckpt").read_bytes()),
        ]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(folders["ecapa"], copy)
        (copy / name).write_bytes(content)
        with pytest.raises(TwistError, match=r"cannot be (loaded|read)"):
            load_language_classifier(str(copy), "cpu")
