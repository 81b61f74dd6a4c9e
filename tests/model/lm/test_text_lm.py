"""Units beside text: the text LM is unchanged by the rows that are added, and the tokenizer names them all."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from model.lm.fused_gelu import fuse_gelu
from model.lm.scoring import log_likelihoods, sequence_scores
from model.lm.scoring_config import ScoringConfig
from model.lm.speech_lm import cold_start
from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from tests.text_models import TEXT, write_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "opt": {
        "model_type": "opt",
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4},
}
ROWS = 330


def write_text_lm(folder: Path, shape: str, kind: str = "bytes") -> Path:
    """A text LM of random weights whose table has ten rows more than its tokenizer has tokens."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(**SHAPES[shape], vocab_size=ROWS)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    write_tokenizer(folder, kind, vocab_size=320)  # type: ignore[arg-type]
    return folder


def vocabulary(num_units: int = 50) -> Vocabulary:
    return Vocabulary(num_units, ROWS + 2, codebook_fingerprint="book", text_size=ROWS)


@pytest.mark.parametrize("shape", SHAPES)
def test_text_is_read_as_before(shape: str, tmp_path: Path) -> None:
    folder = write_text_lm(tmp_path / "text-lm", shape)
    before = AutoModelForCausalLM.from_pretrained(folder).eval()
    fuse_gelu(before)  # which rounds differently
    after = extend_text_lm(str(folder), vocabulary(), seed=0).eval()
    tokens = torch.arange(60)[None] * 5 % ROWS
    with torch.no_grad():
        assert torch.equal(after(tokens).logits[..., :ROWS], before(tokens).logits), "bit for bit, before any training"
    table, old = after.get_input_embeddings().weight, before.get_input_embeddings().weight
    assert len(table) == ROWS + 2 + 50
    assert torch.equal(table[:ROWS], old)
    is_tied = before.get_output_embeddings().weight is old
    assert (after.get_output_embeddings().weight is table) == is_tied
    assert torch.equal(after.get_output_embeddings().weight[:ROWS], before.get_output_embeddings().weight)
    new = table[ROWS:].detach()
    assert new.std() > 0.25 * old.std(), "new rows are drawn, not zero"
    assert not torch.equal(new[0], new[1])


@pytest.mark.parametrize(("shape", "own"), [("opt", (2, 2, 1)), ("llama", (1, 2, None)), ("gpt2", (7, 7, None))])
def test_begin_end_and_pad_of_text_stay(shape: str, own: tuple[int | None, ...], tmp_path: Path) -> None:
    folder = write_text_lm(tmp_path / "text-lm", shape)
    content = json.loads((folder / "config.json").read_text())
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    (folder / "config.json").write_text(json.dumps({**content, **dict(zip(names, own, strict=True))}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [own[1], 9]}))
    model = extend_text_lm(str(folder), vocabulary(), seed=0)
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    before = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings()
    for one in (model, loaded):
        assert tuple(getattr(one.config, name) for name in names) == own
        assert one.generation_config.eos_token_id == [own[1], 9], "text would never end"
        assert getattr(one.get_input_embeddings(), "padding_idx", None) == getattr(before, "padding_idx", None)


def test_new_rows_depend_on_the_seed(tmp_path: Path) -> None:
    folder = str(write_text_lm(tmp_path / "text-lm", "llama"))
    first, again, other = (extend_text_lm(folder, vocabulary(), seed=seed).state_dict() for seed in (0, 0, 1))
    name = "model.embed_tokens.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name][ROWS:], other[name][ROWS:])
    assert torch.equal(first[name][:ROWS], other[name][:ROWS])


@pytest.mark.parametrize("kind", ["bytes", "word_starts"])
def test_ids_have_names_and_come_back(kind: str, tmp_path: Path) -> None:
    folder = write_text_lm(tmp_path / "text-lm", "llama", kind)
    model = extend_text_lm(str(folder), vocabulary(), seed=0)
    saved = tmp_path / "model"
    model.save_pretrained(saved)
    text_tokenizer(str(folder), vocabulary()).save_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    loaded = AutoModelForCausalLM.from_pretrained(saved)
    assert len(tokenizer) == len(loaded.get_input_embeddings().weight) == ROWS + 52
    assert Vocabulary.from_config(loaded.config) == vocabulary()
    assert tokenizer.convert_tokens_to_ids(["[Text]", "[Speech]", "[Hu0]", "[Hu49]"]) == [330, 331, 332, 381]
    plain = AutoTokenizer.from_pretrained(folder)
    ids = [330, *plain(TEXT[0], add_special_tokens=False)["input_ids"], 331, 332, 381, 340]
    written = tokenizer.decode(ids)
    assert written.replace(" ", "").startswith("[Text]thequickbrownfox")
    assert written.replace(" ", "").endswith("[Speech][Hu0][Hu49][Hu8]")
    assert tokenizer(TEXT[0], add_special_tokens=False)["input_ids"] == ids[1:-4], "text is tokenized as before"


def test_ids_of_meta_for_a_table_of_32000() -> None:
    meta = Vocabulary(501, 32_002, text_size=32_000)
    assert (meta.text_id, meta.speech_id, meta.offset, meta.vocab_size) == (32_000, 32_001, 32_002, 32_503)


def test_a_tokenizer_with_other_ids_is_refused(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer", vocab_size=320)
    text_tokenizer(str(folder), vocabulary()).save_pretrained(tmp_path / "extended")
    with pytest.raises(TwistError, match="other ids for units than its model"):
        text_tokenizer(str(tmp_path / "extended"), Vocabulary(40, ROWS + 1, text_size=ROWS - 1))


def test_another_base_of_rotary_positions(tmp_path: Path) -> None:
    folder = str(write_text_lm(tmp_path / "text-lm", "llama"))
    with pytest.warns(UserWarning, match="base 100000"):
        model = extend_text_lm(folder, vocabulary(), seed=0, rope_theta=1e5)
    model.save_pretrained(tmp_path / "model")
    content = json.loads((tmp_path / "model/config.json").read_text())
    assert content["rope_parameters"]["rope_theta"] == 1e5
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    other = extend_text_lm(folder, vocabulary(), seed=0)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
        assert not torch.allclose(other(tokens).logits, model(tokens).logits)


def test_no_warning_without_another_base(tmp_path: Path) -> None:
    folder = str(write_text_lm(tmp_path / "text-lm", "llama"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        extend_text_lm(folder, vocabulary(), seed=0)


def test_a_model_without_rotary_positions_has_no_base(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="no rotary positions"):
        extend_text_lm(str(write_text_lm(tmp_path / "text-lm", "opt")), vocabulary(), seed=0, rope_theta=1e5)


def test_a_vocabulary_of_fewer_tokens_than_the_table(tmp_path: Path) -> None:
    folder = str(write_text_lm(tmp_path / "text-lm", "opt"))
    with pytest.raises(TwistError, match="330 tokens in its table, and 320"):
        extend_text_lm(folder, Vocabulary(50, 322, text_size=320), seed=0)


def test_units_begin_behind_the_two_switches() -> None:
    with pytest.raises(TwistError, match="begin behind its 320 ids of text"):
        Vocabulary(50, 320, text_size=320)


def test_units_stand_behind_speech() -> None:
    """As in training; so scores and perplexities of units are those of speech."""
    assert vocabulary().start_ids == (vocabulary().speech_id,) == (ROWS + 1,)
    assert Vocabulary(50).start_ids == ()
    assert Vocabulary(50, 2, bos_id=1).start_ids == (1,)
    assert Vocabulary(501, 32_002, bos_id=1, text_size=32_000).start_ids == (1, 32_001)


def test_scores_of_units_are_those_behind_speech(tmp_path: Path) -> None:
    folder = str(write_text_lm(tmp_path / "text-lm", "llama"))
    model = extend_text_lm(folder, vocabulary(), seed=0).eval()
    units = np.array([3, 17, 4, 49, 0], np.uint16)
    ids = torch.tensor([[ROWS + 1, *(int(unit) + ROWS + 2 for unit in units)]])
    with torch.no_grad():
        shares = model(ids).logits[0, :-1].log_softmax(dim=1)
    expected = shares[range(5), ids[0, 1:]].numpy()
    (whole,) = sequence_scores(model, vocabulary(), [vocabulary().encode(units)], ScoringConfig())
    np.testing.assert_allclose(whole, expected, rtol=1e-4)
    (behind_the_first,) = log_likelihoods(model, vocabulary(), [units])
    np.testing.assert_allclose(behind_the_first, expected[1:], rtol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "opt", "gpt2", "bloom", "gpt_neox"])
def test_every_token_of_text_is_learned_from_nothing(model_type: str) -> None:
    """Id 0 is text, too: no row of a new table stands for what fills rows up."""
    settings = {name: value for name, value in SHAPES[model_type].items() if name != "tie_word_embeddings"}
    model = cold_start(settings, vocabulary(), seed=0)
    model(torch.tensor([[0, 1, 2, 0, 1]]), labels=torch.tensor([[0, 1, 2, 0, 1]])).loss.backward()
    table = model.get_input_embeddings()
    assert table.padding_idx is None
    assert table.weight[0].abs().sum() > 0
    assert table.weight.grad is not None and table.weight.grad[0].abs().sum() > 0
