from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.lm.epoch_order import BLOCKS_PER_GROUP, EpochOrder


def blocks_of(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=150),
    seed=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_every_epoch_has_every_sample_once_however_it_is_read(sizes: list[int], seed: int, cuts: list[int]) -> None:
    blocks = blocks_of(sizes)
    length = len(blocks)
    whole = EpochOrder(blocks, seed).samples(0, 2 * length)
    for epoch in range(2):
        assert sorted(whole[epoch * length : (epoch + 1) * length]) == list(range(length))
    other = EpochOrder(blocks, seed)
    for start in [*cuts, 0]:
        stop = min(start + 50, 2 * length)
        if start < stop:
            assert other.samples(start, stop).tolist() == whole[start:stop].tolist(), "a place depends on those before"


@given(weights=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.7, 3.0]), min_size=1, max_size=80))
def test_weights_say_how_often_a_sample_comes(weights: list[float]) -> None:
    weights = [*weights, 1.0]
    blocks = blocks_of([len(weights) // 3 + 1] * 3)[: len(weights)]
    order = EpochOrder(blocks, 0, np.array(weights))
    num_epochs = 4
    length = order._places_before(num_epochs)
    seen = Counter(order.samples(0, length).tolist())
    for sample, weight in enumerate(weights):
        assert abs(seen[sample] - num_epochs * weight) < 1, f"a sample of weight {weight} came {seen[sample]} times"
    middle = length // 3
    assert (
        EpochOrder(blocks, 0, np.array(weights)).samples(middle, length).tolist()
        == order.samples(middle, length).tolist()
    )


def test_a_block_is_read_in_one_group_and_a_batch_has_samples_from_many() -> None:
    blocks = blocks_of([128] * 500)
    order = EpochOrder(blocks, 0)
    batches = order.samples(0, 64 * 900).reshape(900, 64)
    assert min(len(set(blocks[batch].tolist())) for batch in batches[:800]) == BLOCKS_PER_GROUP
    last_seen: dict[int, int] = {}
    first_seen: dict[int, int] = {}
    for number, batch in enumerate(batches):
        for block in blocks[batch].tolist():
            first_seen.setdefault(block, number)
            last_seen[block] = number
    assert max(last_seen[block] - first_seen[block] for block in last_seen) <= 128, "a block is read again and again"


def test_a_rank_needs_few_blocks_at_a_time() -> None:
    blocks = blocks_of([128] * 256)
    places = EpochOrder(blocks, 0).samples(0, 64 * 128)
    of_rank = places.reshape(-1, 8, 8)[:, 3]
    assert len(set(blocks[of_rank].ravel().tolist())) == 8


@pytest.mark.parametrize("weights", [None, np.full(6400, 0.5)])
def test_epochs_and_seeds_differ_and_no_order_is_left_of_the_shards(weights: np.ndarray | None) -> None:
    blocks = blocks_of([128] * 50)
    order = EpochOrder(blocks, 0, weights)
    first, second = order.samples(0, 3000), order.samples(6400, 9400)
    assert first.tolist() != second.tolist()
    assert first.tolist() != EpochOrder(blocks, 1, weights).samples(0, 3000).tolist()
    assert abs(np.corrcoef(np.arange(3000), first)[0, 1]) < 0.1
