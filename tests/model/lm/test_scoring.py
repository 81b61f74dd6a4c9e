"""Scores of sequences: those of plain transformers, whatever stands beside a sequence and whatever they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.lm import scoring
from model.lm.generate import ready_for_generation
from model.lm.scoring import token_scores
from model.lm.shared_prefixes import FEWEST_SHARED, shared_rows
from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
FAMILIES = {
    "opt": {"model_type": "opt", "word_embed_proj_dim": 32, "ffn_dim": 64, "max_position_embeddings": 128, **SMALL},
    "llama": {"model_type": "llama", "intermediate_size": 64, "num_key_value_heads": 2, **SMALL},
    "bloom": {"model_type": "bloom", "n_layer": 2, "n_head": 4, "hidden_size": 32},
    "gpt_neox": {"model_type": "gpt_neox", "intermediate_size": 64, **SMALL},
    "imagegpt": {"model_type": "imagegpt", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
VOCABULARY = Vocabulary(20)


def a_model(family):
    model = cold_start(FAMILIES[family], VOCABULARY, seed=0)
    with torch.no_grad():  # far from uniform, so that a wrong context shows
        for tensor in model.parameters():
            tensor.mul_(3)
    return ready_for_generation(model, torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return a_model(request.param)


@pytest.fixture(scope="module")
def opt():
    return a_model("opt")


def stories():
    """Sequences that share a beginning, or a longer one with one of these, or nothing, and two that are equal."""
    generator = np.random.default_rng(0)

    def units(length):
        return VOCABULARY.encode(generator.integers(20, size=length).astype(np.uint16))

    context, other = units(30), units(17)
    middle = np.concatenate([context, units(12)])
    members = [np.concatenate([start, units(length)]) for start in (context, middle, other) for length in (5, 9, 1)]
    return [*members, context, members[4], units(1), units(2), context[:FEWEST_SHARED], members[0][:31]]


def plainly(model, ids):
    with torch.inference_mode():
        nats = model(input_ids=torch.from_numpy(ids)[None]).logits[0].double().log_softmax(-1)
    return nats[torch.arange(len(ids) - 1), torch.from_numpy(ids[1:])].numpy()


def test_scores_are_those_of_plain_transformers(model):
    sequences = stories()
    for ids, nats in zip(sequences, token_scores(model, sequences), strict=True):
        np.testing.assert_allclose(nats, plainly(model, ids), atol=2e-5)


@pytest.mark.parametrize("tokens_at_once", [1, 40, 90])
def test_scores_do_not_depend_on_batching_or_order(opt, monkeypatch, tokens_at_once):
    sequences = stories()
    expected = token_scores(opt, sequences)
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", tokens_at_once)
    order = np.random.default_rng(1).permutation(len(sequences))
    for number, nats in zip(order, token_scores(opt, [sequences[i] for i in order]), strict=True):
        np.testing.assert_allclose(nats, expected[number], atol=1e-5)


@pytest.mark.parametrize("tokens_at_once", [1, 4096])
def test_equal_sequences_have_equal_scores_to_the_last_bit(opt, monkeypatch, tokens_at_once):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", tokens_at_once)
    sequences = stories()
    scores = token_scores(opt, sequences)
    assert np.array_equal(sequences[4], sequences[10])
    assert np.array_equal(scores[4], scores[10])


def test_a_large_table_of_ids_has_short_rows(opt, monkeypatch):
    """Logits of a model of text would not fit into memory otherwise."""
    rows = []
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 40 * opt.config.vocab_size)
    monkeypatch.setattr(scoring, "shared_rows", lambda *args, **_: rows.append(args[1]) or shared_rows(*args))
    token_scores(opt, stories())
    assert rows == [40]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), max_size=12),
    st.integers(1, 100),
    st.booleans(),
)
def test_each_sequence_is_spelled_out_by_its_positions(lists, tokens_at_once, share):
    sequences = [np.array(one, np.int64) for one in lists]
    rows = list(shared_rows(sequences, tokens_at_once, share=share))
    assert sorted(member for row in rows for member in row.members) == list(range(len(sequences)))
    for row in rows:
        flat = np.concatenate(row.documents)
        assert row.num_tokens == len(flat) and (len(flat) <= tokens_at_once or len(row.documents) == 1)
        for member, places in zip(row.members, row.positions, strict=True):
            assert np.array_equal(flat[places], sequences[member])
        start = 0
        for own, prefix in zip(row.documents, row.prefixes, strict=True):
            assert len(own) and (prefix is None or (share and len(prefix) >= FEWEST_SHARED and prefix.max() < start))
            start += len(own)


def test_a_common_beginning_is_computed_once():
    context = np.arange(50)
    sequences = [np.append(context, [number] * 10) for number in (60, 61, 62)]
    (row,) = shared_rows(sequences, 1000)
    assert row.num_tokens == 50 + 3 * 10
    (row,) = shared_rows(sequences, 1000, share=False)
    assert row.num_tokens == 3 * 60
