"""Scores of items: which tokens they are told of, and what a broken model gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.lm.scoring_config import ScoringConfig
from model.lm.speech_lm import cold_start
from model.lm.streams import StreamRates
from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.vocab import Vocabulary
from model.packed_linear import can_pack
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import UnitRow
from pipeline.evaluation.pairs import likelier
from pipeline.evaluation.pairs.likelier import points, score_items
from pipeline.speaking.speech_lm import load_lm
from tests.model.lm.test_spiritlm import EXPRESSIVE_NAMES, write_release
from tests.model.lm.test_text_lm import ROWS, write_text_lm

OPT = {
    "model_type": "opt",
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "max_position_embeddings": 16,
}
UNITS = {"ab": UnitRow(np.array([4, 5], np.uint16), np.array([1, 2], np.uint16), 0.12)}


@pytest.fixture
def folder(tmp_path):
    cold_start(OPT, Vocabulary(100, offset=2), seed=0).save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.mark.parametrize(("eos", "targets"), [(False, [4, 5]), (True, [4, 5, "end"])])
def test_a_start_is_given_and_units_are_told(folder, eos, targets):
    """Units 4, 5 as inputs EOS, 4 and targets 4, 5, as slm_scaling scores them; the end too where it is asked for."""
    lm = load_lm(str(folder), "cpu")
    lm.vocabulary = replace(lm.vocabulary, bos_id=1)
    scores, _ = score_items(lm, UNITS, ScoringConfig(bos=True, eos=eos))
    mark = lm.vocabulary.bos_id
    ids = [mark, *(mark if one == "end" else int(lm.vocabulary.encode(np.array([one]))[0]) for one in targets)]
    with torch.inference_mode():
        nats = lm.model(input_ids=torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    expected = nats[torch.arange(len(ids) - 1), ids[1:]].sum().item()
    assert (scores["ab"].sum, scores["ab"].num_targets) == (pytest.approx(expected, rel=1e-5), len(targets))


def test_a_model_that_gives_no_number_is_told(folder):
    lm = load_lm(str(folder), "cpu")
    with torch.no_grad():
        next(lm.model.parameters()).fill_(torch.nan)
    with pytest.raises(TwistError, match="gives ab a likelihood of NaN: its weights are damaged"):
        score_items(lm, UNITS, ScoringConfig())


def test_a_tie_is_half_a_point():
    assert [points(*scores) for scores in ((1.0, 0.0), (0.0, 1.0), (-2.0, -2.0))] == [1.0, 0.0, 0.5]


def test_a_pair_of_equal_units_is_a_tie_wherever_its_members_stand(folder, monkeypatch):
    generator = np.random.default_rng(0)
    rows = [generator.integers(100, size=length).astype(np.uint16) for length in (9, 4, 16, 7, 2)]
    rows += [rows[0].copy(), rows[3].copy()]
    units = {str(number): UnitRow(row, np.ones_like(row), 1.0) for number, row in enumerate(rows)}
    monkeypatch.setattr(likelier, "SCORED_AT_ONCE", 2)
    scores, _ = score_items(load_lm(str(folder), "cpu"), units, ScoringConfig())
    assert list(scores) == list(units)
    assert scores["0"] == scores["5"] != scores["1"]
    assert scores["3"] == scores["6"]


def test_drawing_changes_how_the_model_computes_and_no_score(folder):
    lm = load_lm(str(folder), "cpu")
    before, _ = score_items(lm, UNITS, ScoringConfig())
    assert lm.drawing_model is lm.model
    after, _ = score_items(lm, UNITS, ScoringConfig())
    assert after["ab"].sum == pytest.approx(before["ab"].sum, rel=1e-5)
    assert not any(isinstance(module, torch.nn.Linear) for module in lm.drawing_model.modules()) or not can_pack(
        torch.float32, torch.device("cpu")
    )


@pytest.mark.parametrize("layout", ["ours", "Meta's"])
def test_units_of_a_model_of_text_and_speech_stand_behind_its_mark(layout, tmp_path):
    """What sWUGGY, sBLIMP and all pairs of audio are scored with: [Speech], and Meta's BOS before it; no text."""
    if layout == "ours":
        vocabulary = Vocabulary(100, ROWS + 2, text_size=ROWS)
        extend_text_lm(str(write_text_lm(tmp_path / "text-lm", "llama")), vocabulary, 0).save_pretrained(tmp_path)
        text_tokenizer(str(tmp_path / "text-lm"), vocabulary).save_pretrained(tmp_path)
    else:
        write_release(tmp_path)
    scores, left_out = score_items(load_lm(str(tmp_path), "cpu"), UNITS, ScoringConfig())
    assert not left_out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    start = [] if layout == "ours" else [tokenizer.bos_token]
    ids = tokenizer.convert_tokens_to_ids([*start, "[Speech]", "[Hu4]", "[Hu5]"])
    with torch.inference_mode():
        nats = AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = sum(nats[place, ids[place + 1]].item() for place in (len(ids) - 3, len(ids) - 2))
    assert (scores["ab"].sum, scores["ab"].num_targets) == (pytest.approx(expected, rel=1e-5), 2)
    assert scores["ab"].mean == pytest.approx(expected / 2, rel=1e-5)


def test_an_expressive_model_is_scored_on_all_that_it_hears(tmp_path):
    """Style first, then pitch, then units; equal codes of pitch once, and each at its time."""
    write_release(tmp_path, EXPRESSIVE_NAMES, rows=768)
    codes = (np.array(one, np.uint16) for one in ([1, 1, 2], [7]))
    units = {"ab": UnitRow(np.array([4, 5], np.uint16), np.array([3, 2], np.uint16), 0.2, *codes)}
    lm = load_lm(str(tmp_path), "cpu")
    scores, left_out = score_items(lm, units, ScoringConfig(), StreamRates(25.0, 12.5, 1.0))
    assert not left_out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    said = ["[St7]", "[Pi1]", "[Hu4]", "[Hu5]", "[Pi2]"]
    ids = tokenizer.convert_tokens_to_ids([tokenizer.bos_token, "[Speech]", *said])
    with torch.inference_mode():
        nats = AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = sum(nats[place, ids[place + 1]].item() for place in range(1, len(ids) - 1))
    assert (scores["ab"].sum, scores["ab"].num_targets) == (pytest.approx(expected, rel=1e-5), 5)
    with pytest.raises(TwistError, match="repeats is for models of units alone"):
        score_items(lm, units, ScoringConfig(repeats=True), StreamRates(25.0, 12.5, 1.0))
