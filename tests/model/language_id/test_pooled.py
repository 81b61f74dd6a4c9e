"""The small classifier of languages: padding, batches, its folder, calibration, training, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from model.artefacts import EMBEDDED_FOLDER
from model.language_id.augment import augment
from model.language_id.calibration import Calibration, calibrate
from model.language_id.classifier import find_language_classifier, load_language_classifier
from model.language_id.frames import LanguageBatches, LanguageFrames, windows_of
from model.language_id.pooled import PooledClassifier
from model.language_id.pooled_config import CLASSIFIER, PooledConfig
from model.language_id.pooled_folder import (
    CLASSIFIER_WEIGHTS,
    ENCODER_WEIGHTS,
    PooledFacts,
    load_pooled,
    probabilities_of,
    read_facts,
    write_pooled,
)
from model.language_id.train_config import LanguageTrainConfig
from model.language_id.trainer import train_language
from model.training import checkpoint_steps
from pipeline.errors import TwistError
from tests.language_classifiers import write_pooled_classifier

if TYPE_CHECKING:
    from model.training.training import OnEvent

SMALL = PooledConfig(channels=8, kernel_size=3, attention_channels=4, hidden_size=8)
DIM = 6


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of random weights on one layer of the embedded tokenizer."""
    folder = tmp_path_factory.mktemp("classifier")
    write_pooled_classifier(folder)
    return folder


def clips(*num_samples: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(n, generator=generator) for n in num_samples]


# The network


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 20), st.integers(0, 10**6))
def test_a_batch_gives_what_each_clip_gives_alone_whatever_the_padding(
    lengths: list[int], more: int, seed: int
) -> None:
    torch.manual_seed(seed)
    classifier = PooledClassifier(SMALL, DIM, 3).eval()
    frames = torch.randn(len(lengths), max(lengths) + more, DIM)
    together = classifier(frames, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = classifier(frames[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)


def test_what_lies_in_the_padding_does_not_matter() -> None:
    classifier = PooledClassifier(SMALL, DIM, 3).eval()
    frames, lengths = torch.randn(2, 30, DIM), torch.tensor([30, 12])
    before = classifier(frames, lengths)
    frames[1, 12:] = 1e4
    assert torch.equal(classifier(frames, lengths), before)


def test_the_mean_of_a_clip_does_not_matter() -> None:
    """Voice and channel shift frames as a whole."""
    classifier = PooledClassifier(SMALL, DIM, 3).eval()
    frames = torch.randn(1, 25, DIM)
    shifted = classifier(frames + torch.randn(DIM), torch.tensor([25]))
    torch.testing.assert_close(shifted, classifier(frames, torch.tensor([25])), atol=1e-4, rtol=1e-4)


# Its folder


def test_clips_alone_and_together(folder: Path) -> None:
    classifier = load_language_classifier(str(folder), "cpu")
    wavs = clips(16_000, 24_000, 16_000, 9_000)
    together = classifier(wavs)
    assert together.shape == (4, 3) and torch.allclose(together.sum(dim=1), torch.ones(4), atol=1e-5)
    for row, wav in zip(together, wavs, strict=True):
        assert torch.equal(classifier([wav])[0], row), "the clips beside it change it"
    assert classifier([]).shape == (0, 3)
    assert find_language_classifier(str(folder)) == (folder, "pooled")


def test_the_level_of_a_clip_does_not_matter(folder: Path) -> None:
    classifier = load_language_classifier(str(folder), "cpu")
    (wav,) = clips(32_000)
    quiet, loud = classifier([0.01 * wav]), classifier([wav])
    torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=0)


def test_what_is_written_is_read(folder: Path, tmp_path: Path) -> None:
    encoder, classifier, facts = load_pooled(folder, "cpu")
    assert facts == read_facts(folder) and facts.wanted == "en"
    assert encoder.num_frames(16_000) == 24
    write_pooled(tmp_path / "copy", str(folder), classifier.state_dict(), facts)
    again = load_language_classifier(str(tmp_path / "copy"), "cpu")
    assert torch.equal(again(clips(20_000)), load_language_classifier(str(folder), "cpu")(clips(20_000)))


def test_only_the_layers_that_are_read_are_stored(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    whole = load_file(EMBEDDED_FOLDER / "hubert-tiny-25hz" / "model.safetensors")
    assert {name for name in whole if ".layers." in name and ".layers.0." not in name}.isdisjoint(stored)
    assert all(torch.equal(weight, whole[name]) for name, weight in stored.items())
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1


def test_a_folder_that_lacks_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """Without what prepares waveforms it would answer otherwise."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(TwistError, match=r"preprocessor_config.json is not what classifier.json says"):
        load_pooled(tmp_path, "cpu")


@pytest.mark.parametrize("name", [CLASSIFIER, CLASSIFIER_WEIGHTS, ENCODER_WEIGHTS])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    with pytest.raises(TwistError, match=rf"{name}.* (cannot be read|is not what)"):
        load_language_classifier(str(tmp_path), "cpu")


def test_an_encoder_that_is_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    _, classifier, facts = load_pooled(folder, "cpu")
    with pytest.raises(TwistError, match=r"train_language\.encoder .* must be a folder with config\.json"):
        write_pooled(tmp_path / "new", str(tmp_path / "hubert.pt"), classifier.state_dict(), facts)


# Calibration


@given(st.integers(0, 10**6), st.floats(0.01, 0.3), st.sampled_from([1.0, 3.0, 10.0]))
def test_thresholds_get_no_more_wrong_than_asked(seed: int, largest_error: float, apart: float) -> None:
    generator = np.random.default_rng(seed)
    is_wanted = np.arange(300) % 3 == 0
    scores = generator.normal(np.where(is_wanted, apart, -apart), 1.5)
    found = calibrate(scores, is_wanted, largest_error)
    probabilities = 1 / (1 + np.exp(-(found.scale * scores + found.shift)))
    assert (probabilities[is_wanted] < found.other_below).mean() <= largest_error
    assert (probabilities[~is_wanted] > found.wanted_from).mean() <= largest_error
    assert found.other_below <= 0.5 <= found.wanted_from, "what is likelier wanted than not is never dropped"


def test_platt_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    is_wanted = generator.random(2000) < 0.2
    scores = generator.normal(np.where(is_wanted, 2.0, -1.0), 2.0)
    found = calibrate(scores, is_wanted, 0.05)
    theirs = LogisticRegression(C=1e6, class_weight="balanced").fit(scores[:, None], is_wanted)
    assert found.scale == pytest.approx(theirs.coef_[0, 0], abs=0.01)
    assert found.shift == pytest.approx(theirs.intercept_[0], abs=0.01)


def test_probabilities_are_calibrated_and_shared_among_the_others() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [-3.0, 0.5, 0.5]])
    told = probabilities_of(logits, Calibration(0.5, -1.0, 0.1, 0.9))
    score = 2.0 - np.log(np.e + 1)
    assert float(told[0, 0]) == pytest.approx(1 / (1 + np.exp(-(0.5 * score - 1))), abs=1e-6)
    assert float(told[0, 1] / told[0, 2]) == pytest.approx(np.e, rel=1e-5)
    assert told.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(TwistError, match="no held-out speech to calibrate on, or of one side alone"):
        calibrate(np.zeros(4), np.ones(4, bool), 0.05)
    with pytest.raises(TwistError, match="has learned nothing"):
        calibrate(np.array([-1.0, 1.0] * 9), np.array([True, False] * 9), 0.05)
    with pytest.raises(TwistError, match="0 <= other_below <= wanted_from <= 1"):
        Calibration(1.0, 0.0, 0.6, 0.4)


# Copies


def test_copies_differ_in_sound_and_are_the_same_each_time() -> None:
    wav = np.sin(np.arange(32_000) / 7).astype(np.float32) * np.linspace(0, 1, 32_000, dtype=np.float32)
    copies = [augment(wav, np.random.default_rng(seed)) for seed in range(12)]
    again = [augment(wav, np.random.default_rng(seed)) for seed in range(12)]
    assert all(np.array_equal(one, other) for one, other in zip(copies, again, strict=True))
    assert all(np.isfinite(copy).all() and copy.any() and copy.dtype == np.float32 for copy in copies)
    assert {len(copy) for copy in copies} - {32_000}, "none is faster or slower"
    assert all(0.8 * 32_000 < len(copy) < 1.2 * 32_000 for copy in copies)


def test_silence_stays_silent() -> None:
    for seed in range(8):
        assert not augment(np.zeros(16_000, np.float32), np.random.default_rng(seed)).any()


# Training


def frames_of(speakers: int, seed: int, name: str, corpora: tuple[str, ...] = ("a", "b")) -> LanguageFrames:
    """Languages whose frames move differently."""
    generator = np.random.default_rng(seed)
    made, languages, of_corpus, of_speaker = [], [], [], []
    for corpus in corpora:
        for number, language in enumerate(("en", "de", "fr")):
            for speaker in range(speakers):
                time = np.arange(generator.integers(50, 90))[:, None]
                moves = np.sin(time * (0.3 + 0.5 * number) + generator.uniform(0, 6, DIM))
                made.append((moves + generator.normal(0, 0.3, moves.shape)).astype(np.float16))
                languages.append(language)
                of_corpus.append(corpus)
                of_speaker.append(f"{name}-{speaker}")
    offsets = np.cumsum([0, *map(len, made)])
    return LanguageFrames(np.concatenate(made), offsets, languages, of_corpus, of_speaker, 25.0, name)


TRAIN, VALIDATION = frames_of(4, 0, "some"), frames_of(3, 1, "others")


def small_config(**changes: Any) -> LanguageTrainConfig:
    settings: dict[str, Any] = {
        "model": SMALL,
        "batch_size": 8,
        "crops_s": (1.0, 2.0),
        "num_steps": 12,
        "peak_lr": 1e-2,
        "warmup_steps": 2,
        "validate_every": 4,
        "checkpoint_every": 3,
        "calibrate_window_s": 2.0,
        "log_every": 1,
        "device": "cpu",
        **changes,
    }
    return LanguageTrainConfig(**settings)


def killed_at(step: int) -> OnEvent:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    return on_event


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    config = small_config()
    whole = train_language(config, TRAIN, VALIDATION, str(tmp_path / "whole"))
    with pytest.raises(Killed):
        train_language(config, TRAIN, VALIDATION, str(tmp_path / "killed"), killed_at(8))
    resumed = train_language(config, TRAIN, VALIDATION, str(tmp_path / "killed"))
    ours, theirs = (
        load_file(Path(checkpoint_steps.step_folder(str(tmp_path / name), 12)) / CLASSIFIER_WEIGHTS)
        for name in ("killed", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.calibration == whole.calibration and resumed.best == whole.best and resumed.is_finished
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)


def test_it_learns_and_its_thresholds_hold(tmp_path: Path) -> None:
    result = train_language(small_config(num_steps=60), TRAIN, VALIDATION, str(tmp_path / "run"))
    assert result.labels == ("en", "de", "fr")
    assert result.best is not None and result.best.others_found > 0.9 and result.best.loss < 0.4
    assert result.calibration is not None and 0 < result.calibration.other_below <= result.calibration.wanted_from < 1


def test_half_of_a_batch_is_wanted_and_corpora_share_it_evenly() -> None:
    lopsided = dataclasses.replace(TRAIN, corpora=["a"] * 12 + ["b"] * 9 + ["a"] * 3)
    batches = LanguageBatches(lopsided, ("en", "de", "fr"), small_config(batch_size=64))
    labels = torch.cat([batches[step].languages for step in range(8)])
    assert float((labels == 0).float().mean()) == 0.5
    assert float((labels == 1).float().mean()) == pytest.approx(0.25, abs=0.06)
    first, again = batches[3], batches[3]
    assert torch.equal(first.frames, again.frames) and torch.equal(first.num_frames, again.num_frames)


def test_two_processes_share_the_batch_of_one() -> None:
    config = small_config()
    whole = LanguageBatches(TRAIN, ("en", "de", "fr"), config)[5]
    halves = [LanguageBatches(TRAIN, ("en", "de", "fr"), config, rank, 2)[5] for rank in range(2)]
    assert torch.equal(torch.cat([half.languages for half in halves]), whole.languages)
    assert torch.equal(torch.cat([half.num_frames for half in halves]), whole.num_frames)


def test_windows_are_of_one_speaker_and_language_and_lose_little() -> None:
    windows = windows_of(VALIDATION, 2.0)
    assert all(len(frames) <= 50 for frames, _, _ in windows)
    kept = sum(len(frames) for frames, _, _ in windows)
    assert kept > 0.8 * len(VALIDATION.frames)
    assert {language for _, language, _ in windows} == {"en", "de", "fr"}


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    only = dataclasses.replace(TRAIN, languages=["en"] * len(TRAIN))
    with pytest.raises(TwistError, match="no speech in a language other than en is left"):
        train_language(small_config(), only, VALIDATION, str(tmp_path / "a"))
    one_side = dataclasses.replace(VALIDATION, languages=["en"] * len(VALIDATION))
    with pytest.raises(TwistError, match="held-out speech is all of one side"):
        train_language(small_config(), TRAIN, one_side, str(tmp_path / "b"))
    with pytest.raises(TwistError, match="calibrate_on names 'elsewhere', of which no speech is held out"):
        train_language(small_config(calibrate_on=("elsewhere",)), TRAIN, VALIDATION, str(tmp_path / "c"))
    train_language(small_config(num_steps=4), TRAIN, VALIDATION, str(tmp_path / "d"))
    with pytest.raises(TwistError, match="trained on other clips"):
        train_language(small_config(num_steps=4), frames_of(4, 7, "elsewhere"), VALIDATION, str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wanted": "English"}, "a language's code"),
        ({"largest_error": 0.5}, "below a half"),
        ({"crops_s": ()}, "crops_s must be lengths above 0"),
        ({"validation_share": 0.0}, "between 0 and 1"),
        ({"views": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        small_config(**changes)
    with pytest.raises(TwistError, match="kernel_size is 4; it must be odd"):
        PooledConfig(kernel_size=4)


def test_facts_without_two_languages_are_refused(folder: Path, tmp_path: Path) -> None:
    _, classifier, facts = load_pooled(folder, "cpu")
    alone = PooledFacts(facts.model, facts.layer, ("en",), facts.calibration, facts.trained_on)
    write_pooled(tmp_path / "alone", str(folder), classifier.state_dict(), alone)
    with pytest.raises(TwistError, match="no language classifier's of this project"):
        read_facts(tmp_path / "alone")
