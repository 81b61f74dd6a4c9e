"""SpiRit-LM in the layout of its release, with random weights: ids, what stands before units, scores, drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from model.lm.generate import continue_units
from model.lm.generate_mixed import DrawnIds, continue_parts
from model.lm.parts import Part
from model.lm.sampling_config import SamplingConfig
from model.lm.scoring import log_likelihoods, sequence_scores
from model.lm.scoring_config import ScoringConfig
from model.lm.speech_lm import load_speech_lm
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from tests.text_models import write_tokenizer

NUM_TEXT, NUM_UNITS, NUM_ROWS = 320, 51, 512
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}


def write_release(folder: Path, names: list[str] | None = None, rows: int = NUM_ROWS) -> Path:
    """As Meta's: text, [Text], [Speech], units, one of which is the blank, and rows up to a multiple of 256."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **LLAMA, vocab_size=rows, bos_token_id=1, eos_token_id=2, pad_token_id=-1)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.ndim > 1 else 1
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(folder, "word_starts", vocab_size=NUM_TEXT))
    tokenizer.add_tokens(names or ["[Text]", "[Speech]", *(f"[Hu{unit}]" for unit in range(NUM_UNITS))])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("spiritlm"))


def test_ids_are_those_of_the_tokenizer(release: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(release)
    num_text = tokenizer.convert_tokens_to_ids("[Text]")
    _, vocabulary = load_speech_lm(str(release))
    assert vocabulary == Vocabulary(NUM_UNITS, num_text + 2, bos_id=1, text_size=num_text)
    assert vocabulary.start_ids == (1, num_text + 1)
    without_blank = vocabulary.of_units(NUM_UNITS - 1)
    assert without_blank is not None and without_blank.offset == num_text + 2
    assert vocabulary.encode(np.array([7], np.uint16)).tolist() == [tokenizer.convert_tokens_to_ids("[Hu7]")]


def test_units_are_scored_behind_bos_and_speech(release: Path) -> None:
    model, vocabulary = load_speech_lm(str(release))
    units = np.array([3, 17, 4, 49, 0], np.uint16)
    ids = torch.tensor([[1, vocabulary.text_size + 1, *(int(unit) + vocabulary.text_size + 2 for unit in units)]])
    with torch.no_grad():
        shares = AutoModelForCausalLM.from_pretrained(release)(ids).logits[0, 1:-1].log_softmax(dim=1)
    expected = shares[range(5), ids[0, 2:]].numpy()
    (whole,) = sequence_scores(model.eval(), vocabulary, [vocabulary.encode(units)], ScoringConfig())
    np.testing.assert_allclose(whole, expected, rtol=1e-4)
    (behind_the_first,) = log_likelihoods(model, vocabulary, [units])
    np.testing.assert_allclose(behind_the_first, expected[1:], rtol=1e-4)


@pytest.mark.parametrize("modality", ["text", "speech"])
def test_prompts_are_continued_as_by_transformers(release: Path, modality: Any) -> None:
    """Its `generate`, with a list of what must not come: the other modality, the switches and rows for nothing."""
    model, vocabulary = load_speech_lm(str(release))
    tokenizer = AutoTokenizer.from_pretrained(release)
    text = tokenizer("the quick", add_special_tokens=False)["input_ids"]
    names = tokenizer.convert_tokens_to_ids(["[Text]", "[Speech]", "[Hu3]", "[Hu40]", "[Hu7]"])
    ids = [1, names[0], *text, *names[1:]]
    given = ids if modality == "speech" else [*ids, vocabulary.text_size]
    is_allowed = torch.zeros(NUM_ROWS, dtype=torch.bool)
    first, last = (0, vocabulary.text_size) if modality == "text" else (vocabulary.offset, vocabulary.vocab_size)
    is_allowed[first:last] = True
    theirs = AutoModelForCausalLM.from_pretrained(release).generate(
        torch.tensor([given]),
        attention_mask=torch.ones(1, len(given), dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
        bad_words_ids=[[int(token)] for token in torch.nonzero(~is_allowed)[:, 0]],
    )[0, len(given) :]
    prompt = [Part("text", np.array(text)), Part("speech", np.array([3, 40, 7]))]
    drawn_ids = DrawnIds.of(model, tokenizer, vocabulary, "")
    greedy = SamplingConfig(temperature=0)
    (((part,),),) = continue_parts(model.eval(), vocabulary, drawn_ids, [prompt], modality, greedy, max_new_tokens=20)
    assert part.modality == modality
    assert (part.values + first).tolist() == [int(token) for token in theirs if token != 2]


def test_units_alone_are_continued(release: Path) -> None:
    model, vocabulary = load_speech_lm(str(release))
    without_blank = vocabulary.of_units(NUM_UNITS - 1)
    assert without_blank is not None
    hot = SamplingConfig(temperature=1e6, top_k=None, max_times_prompt=100)
    (units,) = continue_units(model.eval(), without_blank, [np.array([1, 2, 3], np.uint16)], hot)[0]
    assert len(units) == 247 and units.max() == NUM_UNITS - 2, "neither the blank nor what is behind it comes"


def test_what_is_no_spiritlm(tmp_path: Path) -> None:
    units = [f"[Hu{unit}]" for unit in range(NUM_UNITS)]
    for number, (names, rows, words) in enumerate(
        (
            (["[Speech]", "[Text]", *units], NUM_ROWS, "in another order than SpiRit-LM"),
            (["[Text]", "[Speech]", *units, "[St0]", "[Pi0]"], NUM_ROWS, "in another order than SpiRit-LM"),
            (["[Text]", "[Speech]", *units, "[Pi0]"], NUM_ROWS, "pitch and style, or neither"),
            (["[Text]", "[Speech]", *units], 150, "its table has 150 rows"),
            (["[Other]"], NUM_ROWS, "has no `offset`"),
        )
    ):
        folder = write_release(tmp_path / str(number), names, rows)
        with pytest.raises(TwistError, match=words):
            load_speech_lm(str(folder))


NUM_PITCH, NUM_STYLE = 64, 100
EXPRESSIVE_NAMES = [
    "[Text]",
    "[Speech]",
    *(f"[Hu{unit}]" for unit in range(NUM_UNITS)),
    *(f"[Pi{code}]" for code in range(NUM_PITCH)),
    *(f"[St{code}]" for code in range(NUM_STYLE)),
]


@pytest.fixture(scope="module")
def expressive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Meta's EXPRESSIVE: pitch behind the units, and style behind that, then rows for nothing."""
    return write_release(tmp_path_factory.mktemp("expressive"), EXPRESSIVE_NAMES, rows=768)


def test_ids_of_expressive_are_those_of_the_tokenizer(expressive: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(expressive)
    model, vocabulary = load_speech_lm(str(expressive))
    assert len(model.get_input_embeddings().weight) == 768
    names = ["[Hu7]", "[Pi0]", "[Pi63]", "[St0]", "[St99]"]
    ids = [
        *vocabulary.encode(np.array([7], np.uint16)),
        *vocabulary.encode_pitch(np.array([0, 63], np.uint16)),
        *vocabulary.encode_style(np.array([0, 99], np.uint16)),
    ]
    assert ids == tokenizer.convert_tokens_to_ids(names)
    without_blank = vocabulary.of_units(NUM_UNITS - 1)
    assert without_blank is not None and without_blank.pitch_offset == vocabulary.pitch_offset
    blank = vocabulary.offset + NUM_UNITS - 1
    assert blank in vocabulary.speech_ids and blank not in without_blank.speech_ids


@pytest.mark.parametrize("modality", ["text", "speech", "any"])
def test_expressive_says_what_its_mode_allows(expressive: Path, modality: Any) -> None:
    """However it draws: in speech units, pitch and style; in text, text; and never a row for nothing."""
    model, vocabulary = load_speech_lm(str(expressive))
    tokenizer = AutoTokenizer.from_pretrained(expressive)
    drawn_ids = DrawnIds.of(model, tokenizer, vocabulary, "")
    names = tokenizer.convert_tokens_to_ids(["[St71]", "[Pi39]", "[Hu3]", "[Pi4]", "[Hu40]"])
    prompt = [Part("text", np.array([5, 6])), Part("speech", np.array(names) - vocabulary.offset)]
    hot = SamplingConfig(temperature=1e6, top_k=None)
    (found,) = continue_parts(
        model.eval(), vocabulary, drawn_ids, [prompt], modality, hot, max_new_tokens=120, num_continuations=4
    )
    spoken = np.concatenate([part.values for parts in found for part in parts if part.modality == "speech"] or [[]])
    ids = spoken.astype(np.int64) + vocabulary.offset
    kinds = [bool(is_one(ids).any()) for is_one in (vocabulary.is_unit, vocabulary.is_pitch, vocabulary.is_style)]
    assert kinds == [modality != "text"] * 3
    assert np.isin(ids, vocabulary.speech_ids).all()
    is_text = any(part.modality == "text" for parts in found for part in parts)
    assert is_text == (modality != "speech")


def test_units_alone_of_expressive_are_continued(expressive: Path) -> None:
    model, vocabulary = load_speech_lm(str(expressive))
    hot = SamplingConfig(temperature=1e6, top_k=None, max_times_prompt=100)
    (units,) = continue_units(model.eval(), vocabulary, [np.array([1, 2, 3], np.uint16)], hot)[0]
    assert len(units) == 247, "every draw is a unit"


def test_a_part_with_what_the_model_does_not_say_is_refused(expressive: Path) -> None:
    model, vocabulary = load_speech_lm(str(expressive))
    drawn_ids = DrawnIds.of(model, AutoTokenizer.from_pretrained(expressive), vocabulary, "")
    prompt = [Part("speech", np.array([vocabulary.vocab_size - vocabulary.offset]))]
    with pytest.raises(TwistError, match="no unit, pitch or style"):
        continue_parts(model, vocabulary, drawn_ids, [prompt], "speech", SamplingConfig())
