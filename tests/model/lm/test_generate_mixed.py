"""Continuing text and speech: batched = alone, transformers' own steps, what is never drawn, and parts of what is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from model.lm.generate import continue_units, probabilities
from model.lm.generate_mixed import DrawnIds, continue_parts
from model.lm.modality import OutputModality
from model.lm.parts import Part, encode, parse
from model.lm.sampling_config import SamplingConfig
from model.lm.scoring import log_likelihoods
from model.lm.text_lm import extend_text_lm, ids_of_text, text_tokenizer
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.speaking.text_and_speech import before_first
from tests.model.lm.test_text_lm import ROWS, write_text_lm

VOCABULARY = Vocabulary(50, ROWS + 2, text_size=ROWS)
MODALITIES: tuple[OutputModality, ...] = get_args(OutputModality)


class Mixed:
    """A model of text and speech with peaked logits, and its tokenizer."""

    def __init__(self, folder: Path, shape: str = "llama") -> None:
        text_lm = str(write_text_lm(folder / shape, shape))
        self.model: Any = extend_text_lm(text_lm, VOCABULARY, seed=0).eval()
        for parameter in self.model.parameters():
            parameter.data *= 4 if parameter.ndim > 1 else 1
        self.tokenizer: Any = text_tokenizer(text_lm, VOCABULARY)
        self.ids = DrawnIds.of(self.model, self.tokenizer, VOCABULARY, text_lm)

    def continued(self, prompts: list[list[Part]], modality: OutputModality, **settings: Any) -> list[list[list[Part]]]:
        names = ("max_new_tokens", "num_continuations", "batch_size")
        how = {name: settings.pop(name) for name in names if name in settings}
        config = SamplingConfig(**{"top_k": None, **settings})
        return continue_parts(self.model, VOCABULARY, self.ids, prompts, modality, config, **how)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return Mixed(tmp_path_factory.mktemp("mixed"))


def text(*values: int) -> Part:
    return Part("text", np.array(values, np.int64))


def speech(*values: int) -> Part:
    return Part("speech", np.array(values, np.int64))


PROMPTS = [
    [text(5, 9, 100)],
    [speech(1, 2, 3, 4, 5, 6, 7)],
    [text(7, 8), speech(10, 11), text(9)],
    [speech(30), text(40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50), speech(2, 3)],
    [text(300), text(301), speech(49), speech(0)],
]


def flat(parts: list[Part]) -> list[tuple[str, list[int]]]:
    return [(part.modality, part.values.tolist()) for part in parts]


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("shape", ["llama", "opt"])
def test_batched_equals_alone(modality: OutputModality, shape: str, tmp_path: Path) -> None:
    mixed = Mixed(tmp_path, shape)
    together = mixed.continued(PROMPTS, modality, max_new_tokens=30, num_continuations=2, batch_size=4)
    for number, prompt in enumerate(PROMPTS):
        (alone,) = mixed.continued([prompt], modality, max_new_tokens=30, num_continuations=2, batch_size=1)
        assert list(map(flat, alone)) == list(map(flat, together[number])), f"prompt {number}"


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_likeliest_ids_are_those_of_a_plain_loop(mixed: Mixed, modality: OutputModality) -> None:
    text_ids = set(range(320)) - {mixed.tokenizer.eos_token_id}
    units = set(range(ROWS + 2, ROWS + 52))
    allowed = {"text": text_ids, "speech": units, "any": text_ids | units | {ROWS, ROWS + 1}}[modality]
    allowed |= {mixed.tokenizer.eos_token_id} if modality != "speech" else set()
    for prompt in PROMPTS:
        ids = encode(prompt, VOCABULARY, modality)
        num_given = len(ids)
        while len(ids) < num_given + 25 and (len(ids) == num_given or ids[-1] != mixed.tokenizer.eos_token_id):
            with torch.no_grad():
                logits = mixed.model(torch.tensor([ids])).logits[0, -1]
            ids.append(max(allowed, key=lambda token: float(logits[token])))
        expected = [token for token in ids[num_given:] if token != mixed.tokenizer.eos_token_id]
        ((found,),) = mixed.continued([prompt], modality, temperature=0, max_new_tokens=25)
        assert flat(found) == flat(parse(np.array(expected, np.int64), VOCABULARY))


@pytest.mark.parametrize("modality", MODALITIES)
def test_rows_that_stand_for_nothing_are_never_drawn(mixed: Mixed, modality: OutputModality) -> None:
    """At a temperature at which every id is about as likely as any other, and with rows beyond the vocabulary."""
    drawn = mixed.continued([[text(5)]], modality, temperature=1e6, max_new_tokens=150, num_continuations=10)[0]
    kinds = {part.modality for parts in drawn for part in parts}
    assert kinds == ({"text", "speech"} if modality == "any" else {modality})
    tokens = np.concatenate([part.values for parts in drawn for part in parts if part.modality == "text"] or [[]])
    assert modality == "speech" or 200 < tokens.max() < 320, "320 to 329 are rows of the table alone"


def test_ids_are_drawn_as_often_as_they_are_likely(mixed: Mixed) -> None:
    config = SamplingConfig(top_k=5)
    drawn = mixed.continued([[text(5, 6)]], "speech", top_k=5, max_new_tokens=1, num_continuations=1000, batch_size=500)
    ids = encode([text(5, 6)], VOCABULARY, "speech")
    with torch.no_grad():
        logits = mixed.model(torch.tensor([ids])).logits[:, -1, ROWS + 2 : ROWS + 52]
    expected = probabilities(logits, config)[0].numpy()
    found = np.bincount([int(parts[0].values[0]) for parts in drawn[0]], minlength=50) / 1000
    np.testing.assert_allclose(found, expected, atol=0.06)


def test_units_continued_by_a_model_of_text_are_units(mixed: Mixed) -> None:
    prompt = np.array([4, 5, 6, 7], np.uint16)
    config = SamplingConfig(temperature=1e6, top_k=None)
    (units,) = continue_units(mixed.model, VOCABULARY, [prompt], config)[0]
    assert len(units) == 8, "nothing but units was drawn, so none was dropped"
    ((parts,),) = mixed.continued([[Part("speech", prompt.astype(np.int64))]], "speech", temperature=0)
    (units,) = continue_units(mixed.model, VOCABULARY, [prompt], SamplingConfig(temperature=0))[0]
    assert parts[0].values[:8].tolist() == units.tolist()


def test_text_ends_where_it_ends(mixed: Mixed) -> None:
    eos = mixed.tokenizer.eos_token_id
    for parts in mixed.continued([[text(5)]], "text", temperature=1e6, num_continuations=20, max_new_tokens=200)[0]:
        values = np.concatenate([part.values for part in parts]) if parts else np.zeros(0)
        assert eos not in values
    lengths = [
        sum(len(part.values) for part in parts)
        for parts in mixed.continued([[text(5)]], "text", temperature=1e6, num_continuations=20)[0]
    ]
    assert min(lengths) < 200, "of 20 texts with an end in 320 tokens, none ended"


def test_what_stands_before_parts() -> None:
    assert encode([text(3), text(4)], VOCABULARY) == [330, 3, 4]
    assert encode([text(3), speech(0, 1)], VOCABULARY) == [330, 3, 331, 332, 333]
    assert encode([speech(0)], VOCABULARY, "text") == [331, 332, 330]
    assert encode([speech(0)], VOCABULARY, "speech") == [331, 332]
    meta = Vocabulary(501, 32_002, bos_id=1, text_size=32_000)
    assert encode([text(5), speech(99)], meta, "text") == [1, 32_000, 5, 32_001, 32_101, 32_000]


def test_the_paper_s_spoken_stop() -> None:
    """SpiRit-LM, note 17: the word "stop", which ends a clip that is shown, in units of BASE and in ids of Meta's."""
    stop = [481, 149, 40, 48, 315, 242, 428, 494, 75, 497, 188, 388, 109, 23, 338, 23, 481]
    meta = Vocabulary(501, 32_002, bos_id=1, text_size=32_000)
    ids = encode([speech(7, 7, 3), speech(*stop), text(5)], meta, "speech")
    assert ids[-len(stop) - 3 :] == [*(32_002 + unit for unit in stop), 32_000, 5, 32_001]
    said = np.array([7, 3, *stop, 9])
    assert before_first(said, np.array(stop)).tolist() == [7, 3]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            "abc[Speech][Hu23][Hu45][Text]hello world[",
            [("text", "abc"), ("speech", [23, 45]), ("text", "hello world[")],
        ),
        ("abc[Text]def", [("text", "abcdef")]),
        ("abc[]", [("text", "abc[]")]),
        ("[Hu23]abc[Hu23][Hu46]", [("speech", [23]), ("text", "abc"), ("speech", [23, 46])]),
        ("[Hu1][Speech][Hu1]", [("speech", [1, 1])]),
        ("[Text][Speech]", []),
        ("", []),
    ],
)
def test_parts_of_what_is_written(mixed: Mixed, written: str, expected: list[tuple[str, object]]) -> None:
    ids = np.array(mixed.tokenizer(written, add_special_tokens=False)["input_ids"], np.int64)
    found = [
        (part.modality, mixed.tokenizer.decode(part.values) if part.modality == "text" else part.values.tolist())
        for part in parse(ids, VOCABULARY)
    ]
    assert found == expected


def test_encoding_and_parsing_are_inverse() -> None:
    for prompt in PROMPTS[:4]:
        assert flat(parse(np.array(encode(prompt, VOCABULARY)), VOCABULARY)) == flat(prompt)
    assert flat(parse(np.array(encode(PROMPTS[4], VOCABULARY)), VOCABULARY)) == [
        ("text", [300, 301]),
        ("speech", [49, 0]),
    ]


def test_ids_of_text_are_those_of_the_tokenizer(mixed: Mixed, tmp_path: Path) -> None:
    mixed.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert ids_of_text(loaded, VOCABULARY).tolist() == list(range(320))


def test_errors(mixed: Mixed) -> None:
    with pytest.raises(TwistError, match="token 330 is not among the model's 330"):
        mixed.continued([[text(330)]], "any")
    with pytest.raises(TwistError, match="unit 50 is not in a codebook of 50"):
        mixed.continued([[speech(50)]], "any")
    with pytest.raises(TwistError, match="2 tokens and 4000 new ones are more than the model's 2048 positions"):
        mixed.continued([[text(5)]], "any", max_new_tokens=4000)


def test_units_are_scored_as_they_are_drawn(mixed: Mixed) -> None:
    units = np.array([4, 5, 6, 7], np.uint16)
    sampling = SamplingConfig(temperature=1, top_k=None)
    (nats,) = log_likelihoods(mixed.model, VOCABULARY, [units], sampling)
    ids = torch.tensor([encode([speech(4, 5, 6, 7)], VOCABULARY)])
    with torch.no_grad():
        shares = mixed.model(ids).logits[0, 1:-1, ROWS + 2 : ROWS + 52].double().log_softmax(dim=1)
    np.testing.assert_allclose(nats, shares[range(3), [5, 6, 7]].numpy(), rtol=1e-4)
