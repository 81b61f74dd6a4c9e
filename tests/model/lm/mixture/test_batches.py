"""Batches of a mixture: their order depends on the seed and the step alone, and each kind has its share of tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from model.lm.loader_config import LoaderConfig
from model.lm.mixture.batches import MixtureBatches
from model.lm.mixture.config import INTERLEAVED, SPEECH, TEXT, MixtureConfig, SpanConfig
from model.lm.mixture.sources import AlignedSource
from model.lm.samples import AlignedSamples
from pipeline.errors import TwistError
from tests.model.lm.mixture.conftest import MAX_TOKENS, Shards

if TYPE_CHECKING:
    from model.lm.loader import Batch

EVEN = MixtureConfig(speech=1, text=1, interleaved=1, speech_text=1, text_speech=1)


def batches_of(shards: Shards, mixture: MixtureConfig = EVEN, **settings: Any) -> MixtureBatches:
    defaults = {"batch_size": 12, "num_micro_batches": 1, "seed": 5}
    return MixtureBatches(shards.sources(), mixture, shards.vocabulary, **(defaults | settings))


def sequences(batch: Batch) -> list[tuple[int, ...]]:
    return [
        tuple(sequence.tolist())
        for micro_batch in batch.micro_batches
        for sequence in torch.split(micro_batch.token_ids, list(micro_batch.lengths))
    ]


def test_a_step_can_be_entered_anywhere(shards: Shards) -> None:
    in_order = list(batches_of(shards).iterate(0, 9, 0))
    for step in (8, 3, 0):
        assert sequences(batches_of(shards)[step]) == sequences(in_order[step])
    assert sequences(batches_of(shards, seed=6)[3]) != sequences(in_order[3])


@pytest.mark.parametrize(("world_size", "num_micro_batches"), [(2, 1), (3, 2), (1, 4)])
def test_ranks_part_a_step_among_them(shards: Shards, world_size: int, num_micro_batches: int) -> None:
    whole = batches_of(shards)
    ranks = [
        batches_of(shards, num_micro_batches=num_micro_batches, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in range(4):
        parts = [rank[step] for rank in ranks]
        assert {len(part.micro_batches) for part in parts} == {num_micro_batches}
        assert Counter(s for part in parts for s in sequences(part)) == Counter(sequences(whole[step]))
        assert sum(part.num_units for part in parts) == whole[step].num_units
        assert sum(part.num_targets for part in parts) == whole[step].num_targets


def test_counts_are_those_of_the_sequences(shards: Shards) -> None:
    for batch in batches_of(shards).iterate(0, 5, 0):
        found = sequences(batch)
        assert batch.num_units == sum(map(len, found)) == sum(batch.units_by_kind.values())
        assert batch.num_targets == sum(len(sequence) - 1 for sequence in found)


def test_worker_processes_give_the_same(shards: Shards) -> None:
    alone = [sequences(batch) for batch in batches_of(shards).iterate(2, 6, 0)]
    assert [sequences(batch) for batch in batches_of(shards).iterate(2, 6, 2)] == alone


@pytest.mark.parametrize(
    "mixture", [EVEN, MixtureConfig(speech=1, text=2, interleaved=3), MixtureConfig(text=9, text_speech=1)]
)
def test_each_kind_has_its_share_of_the_tokens(shards: Shards, mixture: MixtureConfig) -> None:
    batches = batches_of(shards, mixture, batch_size=4096)
    tokens = Counter[str]()
    for batch in batches.iterate(0, 3, 0):
        tokens.update(batch.units_by_kind)
    total = sum(getattr(mixture, kind) for kind in mixture.kinds)
    for kind in mixture.kinds:
        assert tokens[kind] / tokens.total() == pytest.approx(getattr(mixture, kind) / total, rel=0.05), kind


def test_an_epoch_has_every_sample_once(shards: Shards) -> None:
    batches = batches_of(shards, MixtureConfig(interleaved=1), batch_size=8)
    keys = [key for step in range(10) for key in batches.keys(step)]
    assert all(key.startswith("interleaved ") for key in keys)
    assert Counter(keys[:40]) == Counter(keys[40:80]) == Counter(dict.fromkeys(keys, 1)), "40 samples have words"


def test_spans_are_drawn_anew_each_epoch(shards: Shards) -> None:
    batches = batches_of(shards, MixtureConfig(interleaved=1), batch_size=40)
    first, second = (dict(zip(batches.keys(step), sequences(batches[step]), strict=True)) for step in (0, 1))
    assert first.keys() == second.keys()
    assert sum(first[key] != second[key] for key in first) > 30


def test_a_saved_position_is_one_in_these_data_and_settings(shards: Shards) -> None:
    batches = batches_of(shards)
    assert batches.load_state_dict(batches.state_dict(7)) == 7
    assert batches_of(shards, num_micro_batches=3, rank=1, world_size=2).load_state_dict(batches.state_dict(7)) == 7
    for others in (
        batches_of(shards, seed=6),
        batches_of(shards, batch_size=24),
        batches_of(shards, replace(EVEN, text=2)),
        batches_of(shards, MixtureConfig(speech=1)),
    ):
        with pytest.raises(TwistError, match="trained on another stream of sequences"):
            others.load_state_dict(batches.state_dict(7))
    other_spans = shards.sources()
    aligned = AlignedSamples(shards.units, "train")
    other_spans[INTERLEAVED] = AlignedSource(INTERLEAVED, aligned, shards.vocabulary, MAX_TOKENS, SpanConfig())
    changed = MixtureBatches(other_spans, EVEN, shards.vocabulary, batch_size=12, num_micro_batches=1, seed=5)
    with pytest.raises(TwistError, match=r"interleaved\.spans was .*alternate"):
        changed.load_state_dict(batches.state_dict(7))


def test_a_batch_that_cannot_be_parted(shards: Shards) -> None:
    with pytest.raises(TwistError, match="make it a multiple of 5"):
        batches_of(shards, world_size=5)


def test_a_share_of_the_data(shards: Shards) -> None:
    half = shards.sources(data=LoaderConfig(share=0.5))
    for kind, source in shards.sources().items():
        assert 0 < len(half[kind].blocks) < len(source.blocks)


def test_pairs_that_do_not_fit_are_left_out(shards: Shards) -> None:
    aligned = AlignedSamples(shards.units, "train")
    source = AlignedSource("speech_text", aligned, shards.vocabulary, 40, SpanConfig())
    assert 0 < len(source.blocks) < len(aligned)
    batch, _ = source.sequences(np.arange(len(source.blocks)), np.arange(len(source.blocks)), 0)
    assert max(batch.lengths) <= 40
    with pytest.raises(TwistError, match="no sample with speech and text that fit into 5 tokens"):
        AlignedSource("speech_text", aligned, shards.vocabulary, 5, SpanConfig())


def test_kinds_are_what_they_say(shards: Shards) -> None:
    text_id, speech_id = shards.vocabulary.text_id, shards.vocabulary.speech_id
    for kind, source in shards.sources().items():
        samples = np.arange(len(source.blocks))
        batch, skipped = source.sequences(samples, samples, 0)
        assert not skipped
        found = [sequence.tolist() for sequence in torch.split(batch.token_ids, list(batch.lengths))]
        if kind in (SPEECH, TEXT):
            assert all(s[0] == (speech_id if kind == SPEECH else text_id) for s in found)
            assert all(s.count(text_id) + s.count(speech_id) == 1 for s in found)
        else:
            assert all(s.count(text_id) >= 1 and s.count(speech_id) >= 1 for s in found)


def test_the_mean_length_is_known_beforehand(shards: Shards) -> None:
    for kind, source in shards.sources().items():
        samples = np.arange(len(source.blocks))
        lengths = [sum(source.sequences(samples, samples + epoch * len(samples), 1)[0].lengths) for epoch in range(50)]
        assert np.mean(lengths) / len(samples) == pytest.approx(source.mean_tokens, rel=0.05), kind
