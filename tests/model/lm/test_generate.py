"""Continuing units: batched = alone, the same as transformers' generate, limits, seeds, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from model.lm.generate import continue_units, probabilities, ready_for_generation
from model.lm.sampling_config import SamplingConfig
from model.lm.speech_lm import load_speech_lm
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

VOCABULARY = Vocabulary(20)
FAMILIES: dict[str, dict[str, Any]] = {
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 300,
    },
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
}


def speech_lm(family: str = "opt", **changes: Any) -> Any:
    torch.manual_seed(0)
    settings = {**FAMILIES[family], **VOCABULARY.as_config(), **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()
    # The logits of untrained models are nearly uniform.
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.ndim > 1 else 1
    return model


def prompts(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(20, size=length).astype(np.uint16) for length in lengths]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_batched_equals_alone(family: str, temperature: float) -> None:
    model, config = speech_lm(family), SamplingConfig(temperature=temperature, top_k=10)
    given = prompts(5, 17, 2, 9, 9, 30)
    together = continue_units(model, VOCABULARY, given, config, num_continuations=2)
    for number, prompt in enumerate(given):
        for size in (1, 2):
            (alone,) = continue_units(model, VOCABULARY, [prompt], config, num_continuations=2, batch_size=size)
            for one, other in zip(alone, together[number], strict=True):
                np.testing.assert_array_equal(one, other, f"prompt {number} of {len(prompt)} units")
    split = continue_units(model, VOCABULARY, given, config, num_continuations=2, batch_size=5)
    for one, other in zip(split, together, strict=True):
        assert all(map(np.array_equal, one, other)), "the size of batches changes what is drawn"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_likeliest_units_are_those_of_transformers(family: str) -> None:
    model = speech_lm(family)
    for prompt in prompts(4, 11):
        ours = continue_units(model, VOCABULARY, [prompt], SamplingConfig(temperature=0))[0][0]
        ids = torch.from_numpy(VOCABULARY.encode(prompt))[None]
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_length=3 * len(prompt), do_sample=False)[
            0, len(prompt) :
        ]
        theirs = theirs[theirs >= VOCABULARY.offset]
        np.testing.assert_array_equal(ours, VOCABULARY.decode(theirs.numpy()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_ready_says_the_same(family: str) -> None:
    model = speech_lm(family)
    given = prompts(5, 12, 7)
    before = continue_units(model, VOCABULARY, given, SamplingConfig())
    ready = ready_for_generation(speech_lm(family), torch.float32, torch.device("cpu"))
    after = continue_units(ready, VOCABULARY, given, SamplingConfig())
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    half = ready_for_generation(speech_lm(family), torch.bfloat16, torch.device("cpu"))
    assert len(continue_units(half, VOCABULARY, given, SamplingConfig())[1][0])


@pytest.mark.parametrize("top_k", [None, 3, 7, 100])
@pytest.mark.parametrize("top_p", [None, 0.3, 0.9, 1.0])
def test_units_are_drawn_from_the_probabilities_of_transformers(top_k: int | None, top_p: float | None) -> None:
    logits = torch.randn(6, 21, generator=torch.Generator().manual_seed(0)) * 3
    theirs = TemperatureLogitsWarper(0.7)(None, logits)
    if top_k is not None:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p is not None and top_p < 1:  # transformers ignores it at 1
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    ours = probabilities(logits, SamplingConfig(temperature=0.7, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(ours.float(), theirs.softmax(dim=1), rtol=1e-5, atol=1e-7)


def test_units_come_as_often_as_they_are_likely() -> None:
    model = speech_lm(vocab_size=21)
    prompt = prompts(3)[0]
    config = SamplingConfig(max_units=4, top_k=5)
    drawn = continue_units(model, VOCABULARY, [prompt], config, num_continuations=2000, batch_size=500)[0]
    ids = torch.from_numpy(VOCABULARY.encode(prompt))[None]
    with torch.no_grad():
        expected = probabilities(model(ids).logits[:, -1], config)[0].numpy()
    found = np.bincount([int(units[0]) + VOCABULARY.offset for units in drawn if len(units)], minlength=21) / 2000
    assert (expected > 0).sum() == 5
    np.testing.assert_allclose(found[VOCABULARY.offset :], expected[VOCABULARY.offset :], atol=0.04)


def test_length_is_the_published_one() -> None:
    config = SamplingConfig()
    assert [config.max_length(n) for n in (2, 50, 83, 84, 200)] == [6, 150, 249, 250, 250]
    model = speech_lm()
    for prompt in prompts(3, 90):
        (units,) = continue_units(model, VOCABULARY, [prompt], config)[0]
        assert 0 < len(units) <= config.max_length(len(prompt)) - len(prompt)
    short = continue_units(model, VOCABULARY, prompts(10), SamplingConfig(max_units=12, top_k=1))
    assert len(short[0][0]) <= 2


def test_specials_are_dropped_and_end_what_they_end() -> None:
    model = speech_lm("llama", vocab_size=23, offset=3, pad_token_id=0)
    vocabulary = Vocabulary(20, offset=3)
    (prompt,) = prompts(20)
    drawn = continue_units(model, vocabulary, [prompt], SamplingConfig(temperature=5.0, top_k=None))[0][0]
    assert 0 < len(drawn) < 40, "with this temperature some of 40 tokens are specials"
    ended = []
    for end in (1, [1, 2]):
        model.generation_config.eos_token_id = end
        ended.append(continue_units(model, vocabulary, [prompt], SamplingConfig(temperature=5.0, top_k=None))[0][0])
    assert len(drawn) >= len(ended[0]) >= len(ended[1])
    assert len(ended[1]) < len(drawn)
    np.testing.assert_array_equal(ended[1], drawn[: len(ended[1])])


@pytest.mark.parametrize("family", FAMILIES)
def test_models_with_a_bos_are_given_it(family: str) -> None:
    """As slamkit's generation: BOS before the prompt, which max_length does not count, and no unit after EOS."""
    vocabulary = Vocabulary(20, offset=2, bos_id=1)
    model = speech_lm(family, **vocabulary.as_config())
    for prompt in prompts(4, 11, 30):
        ours = continue_units(model, vocabulary, [prompt], SamplingConfig(temperature=0))[0][0]
        ids = torch.tensor([[1, *vocabulary.encode(prompt)]])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_length=1 + 3 * len(prompt), do_sample=False, eos_token_id=1
        )[0, ids.shape[1] :]
        theirs = theirs[theirs >= vocabulary.offset]
        np.testing.assert_array_equal(ours, vocabulary.decode(theirs.numpy()))
    given = prompts(5, 17, 2)
    together = continue_units(model, vocabulary, given, SamplingConfig())
    for number, prompt in enumerate(given):
        (alone,) = continue_units(model, vocabulary, [prompt], SamplingConfig())
        np.testing.assert_array_equal(alone[0], together[number][0])


def test_bos_needs_a_position_too() -> None:
    vocabulary = Vocabulary(20, offset=2, bos_id=1)
    model = speech_lm(max_position_embeddings=32, **vocabulary.as_config())
    (prompt,) = prompts(20)
    continue_units(model, vocabulary, [prompt], SamplingConfig(max_units=31))
    with pytest.raises(TwistError, match="max_units is 32, but the model has only 31 positions for units"):
        continue_units(model, vocabulary, [prompt], SamplingConfig(max_units=32))


@pytest.mark.parametrize("end", [5, [4, 5]])
def test_sequences_end_where_generation_config_says(end: int | list[int], tmp_path: Path) -> None:
    speech_lm("llama", eos_token_id=None).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    model, vocabulary = load_speech_lm(str(tmp_path))
    for prompt in prompts(8, 12, 20):
        ours = continue_units(model, vocabulary, [prompt], SamplingConfig(temperature=0, max_times_prompt=8))[0][0]
        ids = torch.from_numpy(vocabulary.encode(prompt))[None]
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_length=8 * len(prompt), do_sample=False)[
            0, len(prompt) :
        ]
        np.testing.assert_array_equal(ours, vocabulary.decode(theirs[theirs >= vocabulary.offset].numpy()))


def test_rows_beyond_the_units_are_specials() -> None:
    model, (prompt,) = speech_lm("llama", vocab_size=40), prompts(20)
    drawn = continue_units(model, VOCABULARY, [prompt], SamplingConfig(temperature=5.0, top_k=None))[0][0]
    assert 0 < len(drawn) < 40 and int(drawn.max()) < 20


def test_the_seed_and_the_number_of_a_continuation_matter() -> None:
    model, (prompt,) = speech_lm(), prompts(15)
    first = continue_units(model, VOCABULARY, [prompt], SamplingConfig(), 2)[0]
    again = continue_units(model, VOCABULARY, [prompt], SamplingConfig(), 2)[0]
    other = continue_units(model, VOCABULARY, [prompt], SamplingConfig(seed=1), 2)[0]
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


def test_errors() -> None:
    model = speech_lm(max_position_embeddings=32)
    for prompt, config, words in (
        (prompts(0)[0], SamplingConfig(), "no units"),
        (prompts(20)[0], SamplingConfig(max_units=20), "leaves no room"),
        (prompts(20)[0], SamplingConfig(), "only 32 positions"),
        (np.array([25], np.uint16), SamplingConfig(), "not in a codebook"),
    ):
        with pytest.raises(TwistError, match=words):
            continue_units(model, VOCABULARY, [prompt], config)
    for settings in (
        {"temperature": -1.0},
        {"top_k": 0},
        {"top_p": 0.0},
        {"max_units": 1},
        {"max_times_prompt": 1.0},
        {"seed": -1},
    ):
        with pytest.raises(TwistError, match=f"{next(iter(settings))} is"):
            SamplingConfig(**settings)  # type: ignore[arg-type]
