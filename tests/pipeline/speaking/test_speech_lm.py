"""A speech LM scores and continues units: in batches as alone, and as transformers itself does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from model.lm.sampling_config import SamplingConfig
from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.speaking.speech_lm import SpeechLM, load_lm
from pipeline.speaking.units import Units
from tests.pipeline.speaking.conftest import OPT


@pytest.fixture(scope="module")
def lm(spoken_run: Path) -> SpeechLM:
    return load_lm(spoken_run, device="cpu")


def clips(*lengths: int) -> list[Units]:
    generator = np.random.default_rng(0)
    return [Units(generator.integers(0, 100, length).astype(np.uint16)) for length in lengths]


def test_scores_are_those_of_transformers(lm: SpeechLM) -> None:
    (units,) = clips(30)
    model = AutoModelForCausalLM.from_pretrained(lm.path).eval()
    ids = torch.from_numpy(units.values.astype(np.int64)) + 1
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0].double().log_softmax(dim=1)
    expected = logits[:-1].gather(1, ids[1:, None])[:, 0].numpy()
    score = lm.score(units)
    np.testing.assert_allclose(score.log_likelihoods, expected, atol=1e-5)
    assert score.sum == pytest.approx(expected.sum(), abs=1e-4)
    assert score.mean == pytest.approx(score.sum / 29)
    assert score.perplexity == pytest.approx(np.exp(-score.mean))


def test_a_batch_scores_each_clip_as_alone(lm: SpeechLM) -> None:
    several = clips(5, 40, 2, 17, 23)
    for units, score in zip(several, lm.score_batch(several), strict=True):
        np.testing.assert_allclose(score.log_likelihoods, lm.score(units).log_likelihoods, atol=1e-5)
    assert lm.score_batch([]) == []


def test_models_with_a_start_token_see_it_and_never_score_it() -> None:
    vocabulary = Vocabulary(100, offset=2, bos_id=1)
    model = cold_start(OPT, vocabulary, seed=0).eval()
    (units,) = clips(12)
    ids = torch.tensor([[1, *(units.values.astype(np.int64) + 2)]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double().log_softmax(dim=1)
    expected = logits[1:-1].gather(1, ids[0, 2:, None])[:, 0].numpy()
    score = SpeechLM(model, vocabulary, "").score(units)
    np.testing.assert_allclose(score.log_likelihoods, expected, atol=1e-5)


def test_continuations_are_as_alone_and_follow_the_settings(lm: SpeechLM) -> None:
    several = clips(20, 7)
    sampling = SamplingConfig(max_units=30, seed=3)
    together = lm.continue_batch(several, sampling, num_continuations=2)
    for prompt, continuations in zip(several, together, strict=True):
        room = min(30, 3 * len(prompt)) - len(prompt)
        assert all(0 < len(each) <= room for each in continuations), "ids that are no units are left out"
        for ours, theirs in zip(continuations, lm.continue_(prompt, sampling, 2), strict=True):
            np.testing.assert_array_equal(ours.values, theirs.values)
    assert (together[0][0].values != together[0][1].values).any(), "two continuations of a prompt are two draws"
    assert together[0][0].durations is None


def test_what_cannot_be_scored_or_loaded_is_refused(lm: SpeechLM, small_run: Path) -> None:
    with pytest.raises(TwistError, match="two are needed"):
        lm.score(clips(1)[0])
    with pytest.raises(TwistError, match="has 3000 units, but the model takes 1024; score it in parts"):
        lm.score(Units((np.arange(3000) % 100).astype(np.uint16)))
    with pytest.raises(TwistError, match="unit 100 is not in a codebook of 100"):
        lm.score(Units(np.array([1, 100], np.uint16)))
    with pytest.raises(TwistError, match="from codebook other, but this model speaks those of"):
        lm.continue_(Units(np.array([1], np.uint16), codebook_fingerprint="other"))
    with pytest.raises(TwistError, match="holds no checkpoint"):
        load_lm(small_run)
