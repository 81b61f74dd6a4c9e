from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from model.loader import TrainingBatches, UnitSamples, collate
from model.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.shards import Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.model.conftest import MakeDataset

VOCABULARY = Vocabulary(20)


def indexed(lengths: list[int], fingerprint: str = "data-1") -> Dataset:
    """A dataset whose index alone matters."""
    manifest = pa.table(
        {
            "key": [f"sample-{i}" for i in range(len(lengths))],
            "shard": ["train/train-000000.tar"] * len(lengths),
            "units_offset": pa.array([1000 * i for i in range(len(lengths))], pa.int64()),
            "num_units": pa.array(lengths, pa.int32()),
            "corpus": ["librispeech"] * len(lengths),
            "split": ["train"] * len(lengths),
        }
    )
    return Dataset("shards", {"num_units": 20, "fingerprint": fingerprint}, manifest)


def batches_over(
    samples: UnitSamples,
    batch_size: int,
    *,
    seed: int = 0,
    num_micro_batches: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingBatches:
    return TrainingBatches(
        samples,
        VOCABULARY,
        batch_size=batch_size,
        num_micro_batches=num_micro_batches,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def rows(batches: TrainingBatches, index: int) -> list[list[int]]:
    """The ids of a batch's samples, without pads."""
    return [
        ids[labels != -100].tolist()
        for micro_batch in batches[index].micro_batches
        for ids, labels in zip(micro_batch.token_ids, micro_batch.labels, strict=True)
    ]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), max_units=st.integers(2, 15))
def test_pieces_tile_their_samples(lengths: list[int], max_units: int) -> None:
    if max(lengths) < 2:
        lengths = [*lengths, 2]
    samples = UnitSamples(indexed(lengths), "train", max_units)
    assert samples.num_units.min() >= 2, "a piece of one unit has nothing to predict"
    assert samples.num_units.max() <= max_units
    assert samples.num_units.sum() + samples.num_units_left_out == sum(lengths), "units were lost or doubled"
    pieces = Counter(samples.key(i) for i in range(len(samples)))
    for number, length in enumerate(lengths):
        whole, rest = divmod(length, max_units)
        assert pieces[f"sample-{number}"] == whole + (rest >= 2), f"a sample of {length} units in pieces of {max_units}"


@given(
    num_samples=st.integers(1, 40), batch_size=st.integers(1, 17), seed=st.integers(0, 5), num_epochs=st.integers(1, 3)
)
def test_each_epoch_sees_each_sample_once(num_samples: int, batch_size: int, seed: int, num_epochs: int) -> None:
    batches = batches_over(UnitSamples(indexed([5] * num_samples), "train", 8), batch_size, seed=seed)
    num_batches = -(-num_samples * num_epochs // batch_size)
    stream = np.concatenate([batches.sample_indices(i) for i in range(num_batches)])
    for epoch in range(num_epochs):
        part = stream[epoch * num_samples : (epoch + 1) * num_samples]
        assert sorted(part.tolist()) == list(range(num_samples)), f"epoch {epoch} left samples out or repeated some"


@given(start=st.integers(0, 200), batch_size=st.integers(1, 9))
def test_any_batch_is_found_without_those_before_it(start: int, batch_size: int) -> None:
    samples = UnitSamples(indexed([5] * 13), "train", 8)
    in_order = batches_over(samples, batch_size)
    for index in range(start + 1):
        expected = in_order.sample_indices(index)
    assert np.array_equal(batches_over(samples, batch_size).sample_indices(start), expected)


def test_order_is_drawn_anew_each_epoch_and_for_each_seed() -> None:
    samples = UnitSamples(indexed([5] * 50), "train", 8)
    first, second = (batches_over(samples, 50).sample_indices(i).tolist() for i in (0, 1))
    other = batches_over(samples, 50, seed=1).sample_indices(0).tolist()
    assert first != second, "two epochs have the same order"
    assert first != other, "two seeds give the same order"
    assert first != sorted(first), "the order is not shuffled"


def test_order_never_changes_between_versions() -> None:
    batches = batches_over(UnitSamples(indexed([5] * 10), "train", 8), 10, seed=3)
    assert batches.sample_indices(0).tolist() == [0, 4, 9, 7, 1, 5, 6, 3, 8, 2], "runs begun before cannot be resumed"


@pytest.mark.parametrize(("world_size", "num_micro_batches"), [(1, 1), (1, 4), (2, 1), (4, 2), (8, 1)])
def test_a_step_has_the_same_samples_at_any_world_size(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]], world_size: int, num_micro_batches: int
) -> None:
    samples = UnitSamples(make_dataset({"train": markov_units}), "train", 32)
    alone = batches_over(samples, 16)
    ranks = [
        batches_over(samples, 16, num_micro_batches=num_micro_batches, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for index in (0, 3, 7):
        together = [row for rank in ranks for row in rows(rank, index)]
        assert together == rows(alone, index), f"step {index} has other samples, or another order of them"
        assert all(len(rank[index].micro_batches) == num_micro_batches for rank in ranks)
        assert {rank[index].num_targets for rank in ranks} == {sum(len(row) - 1 for row in together)}
        assert {rank[index].num_units for rank in ranks} == {sum(len(row) for row in together)}


def test_reader_processes_change_nothing(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> None:
    batches = batches_over(UnitSamples(make_dataset({"train": markov_units}), "train", 32), 8, num_micro_batches=2)
    here, elsewhere = (list(batches.iterate(5, 12, num_workers)) for num_workers in (0, 2))
    assert [batch.index for batch in here] == [batch.index for batch in elsewhere] == list(range(5, 12))
    for mine, theirs in zip(here, elsewhere, strict=True):
        for one, other in zip(mine.micro_batches, theirs.micro_batches, strict=True):
            assert torch.equal(one.token_ids, other.token_ids)
            assert torch.equal(one.labels, other.labels)
    assert pickle.loads(pickle.dumps(batches)).keys(3) == batches.keys(3), (
        "spawned reader processes need a picklable set"
    )


def test_units_are_those_that_webdataset_reads(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]
) -> None:
    dataset = make_dataset({"train": markov_units, "validation": markov_units[:3]})
    tars = sorted(str(path) for path in Path(dataset.uri, "train").glob("*.tar"))
    reference = {s["__key__"]: s["units.npy"] for s in webdataset.WebDataset(tars, shardshuffle=False).decode()}
    samples = UnitSamples(dataset, "train", max_units=10)
    ours: dict[str, list[int]] = {}
    for index in range(len(samples)):
        ours.setdefault(samples.key(index), []).extend(samples[index].tolist())
    assert ours.keys() == reference.keys()
    for key, units in reference.items():
        assert ours[key] == units[: len(ours[key])].tolist(), f"{key}: other units than in the tar"
        assert len(units) - len(ours[key]) <= 1, f"{key}: more than a last single unit is missing"


def test_collate_pads_on_the_right() -> None:
    samples = [np.array([4, 0, 19], dtype=np.uint16), np.array([7, 7], dtype=np.uint16)]
    rows = collate(samples, VOCABULARY)
    assert rows.token_ids.tolist() == [[5, 1, 20], [8, 8, 0]]
    assert rows.labels.tolist() == [[5, 1, 20], [8, 8, -100]]


def test_state_names_the_next_batch() -> None:
    batches = batches_over(UnitSamples(indexed([5] * 10), "train", 8), 4)
    assert batches.load_state_dict(batches.state_dict(7)) == 7


def test_state_of_other_data_or_order_is_refused() -> None:
    samples = UnitSamples(indexed([5] * 10), "train", 8)
    state = batches_over(samples, 4).state_dict(7)
    with pytest.raises(TwistError, match="other shards"):
        batches_over(UnitSamples(indexed([5] * 10, "data-2"), "train", 8), 4).load_state_dict(state)
    with pytest.raises(TwistError, match="other seed"):
        batches_over(samples, 4, seed=1).load_state_dict(state)


def test_corpora_of_samples(make_dataset: MakeDataset) -> None:
    units = [np.array([1, 2, 3, 4], dtype=np.uint16)] * 3
    dataset = make_dataset({"train": units, "validation": units}, corpora=("a", "b"))
    samples = UnitSamples(dataset, "validation", max_units=2)
    corpora = dict(zip([samples.key(i) for i in range(len(samples))], samples.corpora().tolist(), strict=True))
    assert corpora == {"validation-0": "a", "validation-1": "b", "validation-2": "a"}


def test_empty_split_says_how_to_mend(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"train": [np.array([1], dtype=np.uint16)]})
    with pytest.raises(TwistError, match=r"train split; pack again with more audio"):
        UnitSamples(dataset, "train", 8)
    with pytest.raises(TwistError, match=r"validation split; pack again with a larger pack\.split\.validation"):
        UnitSamples(dataset, "validation", 8)


def test_missing_and_cut_shards_are_named(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"train": [np.arange(10, dtype=np.uint16)]})
    samples = UnitSamples(dataset, "train", 8)
    shard = Path(dataset.uri, "train/train-000000.tar")
    content = shard.read_bytes()
    shard.write_bytes(content[: dataset.manifest["units_offset"][0].as_py() + 3])
    with pytest.raises(TwistError, match=r"train-000000\.tar ends before"):
        samples[0]
    shard.unlink()
    with pytest.raises(TwistError, match=r"train-000000\.tar is missing"):
        samples[0]


def test_uneven_batch_is_refused() -> None:
    samples = Mock(spec=UnitSamples)
    with pytest.raises(TwistError, match="make it a multiple of 6"):
        batches_over(samples, 16, world_size=3, num_micro_batches=2)
