from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import boto3
import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from model.lm.loader import TrainingBatches, collate
from model.lm.loader_config import LoaderConfig
from model.lm.samples import UnitSamples
from model.lm.shard_reader import ShardReader
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.files import parquet, s3, storage
from pipeline.shards import UNCHECKED_SCHEMA, Dataset, Sample, make_key, open_dataset, write_index, write_shard
from tests.s3_servers import FaultyProxy, moto, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def documents(batches: TrainingBatches, index: int) -> list[list[int]]:
    """The ids of a batch's samples."""
    return [
        document.tolist()
        for micro_batch in batches[index].micro_batches
        for document in torch.split(micro_batch.token_ids, list(micro_batch.lengths))
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
    assert batches.sample_indices(0).tolist() == [8, 7, 3, 5, 1, 2, 4, 6, 9, 0], "runs begun before cannot be resumed"


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
        together = [document for rank in ranks for document in documents(rank, index)]
        assert together == documents(alone, index), f"step {index} has other samples, or another order of them"
        assert all(len(rank[index].micro_batches) == num_micro_batches for rank in ranks)
        assert {rank[index].num_targets for rank in ranks} == {sum(len(document) - 1 for document in together)}
        assert {rank[index].num_units for rank in ranks} == {sum(map(len, together))}


def test_reader_processes_change_nothing(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> None:
    batches = batches_over(UnitSamples(make_dataset({"train": markov_units}), "train", 32), 8, num_micro_batches=2)
    here, elsewhere = (list(batches.iterate(5, 12, num_workers)) for num_workers in (0, 2))
    assert [batch.index for batch in here] == [batch.index for batch in elsewhere] == list(range(5, 12))
    for mine, theirs in zip(here, elsewhere, strict=True):
        for one, other in zip(mine.micro_batches, theirs.micro_batches, strict=True):
            assert torch.equal(one.token_ids, other.token_ids)
            assert one.lengths == other.lengths
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


def test_samples_lie_one_behind_the_other() -> None:
    samples = [np.array([4, 0, 19], dtype=np.uint16), None, np.array([7, 7], dtype=np.uint16)]
    micro_batch = collate(samples, VOCABULARY)
    assert micro_batch.token_ids.dtype == torch.int64
    assert micro_batch.token_ids.tolist() == [5, 1, 20, 8, 8]
    assert micro_batch.lengths == (3, 2)


MARKED = Vocabulary(20, offset=2, bos_id=1)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    max_units=st.integers(2, 15),
    batch_size=st.integers(1, 9),
)
def test_each_sample_has_one_bos_and_one_eos(lengths: list[int], max_units: int, batch_size: int) -> None:
    """As in slamkit, where BOS, units and EOS are cut into chunks; an EOS whose unit is left out goes with it."""
    lengths = [*lengths, 2]
    samples = UnitSamples(indexed(lengths), "train", max_units)
    of_all = samples.are_ends(np.arange(len(samples)))
    chunks = [
        (start == 0, min(start + max_units, length) == length)
        for length in lengths
        for start in range(0, length, max_units)
        if min(max_units, length - start) >= 2
    ]
    assert list(zip(*(are.tolist() for are in of_all), strict=True)) == chunks
    shuffled = np.random.default_rng(batch_size).integers(len(samples), size=batch_size)
    is_first, is_last = samples.are_ends(shuffled)
    assert [chunks[index] for index in shuffled] == list(zip(is_first.tolist(), is_last.tolist(), strict=True))


def test_bos_and_eos_stand_around_what_is_read() -> None:
    samples = [np.array([4, 0], np.uint16), None, np.array([7, 7], np.uint16), np.array([3, 1], np.uint16)]
    ends = np.array([True, True, True, False]), np.array([True, True, False, True])
    micro_batch = collate(samples, MARKED, ends)
    assert micro_batch.token_ids.tolist() == [1, 6, 2, 1, 1, 9, 9, 5, 3, 1]
    assert micro_batch.lengths == (4, 3, 3)
    nothing = collate([None], MARKED, (np.array([True]), np.array([True])))
    assert nothing.token_ids.tolist() == [] and nothing.lengths == ()


def test_targets_are_units_and_eos(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> None:
    samples = UnitSamples(make_dataset({"train": markov_units}), "train", 12)

    def marked(**settings: int) -> TrainingBatches:
        all_settings = {"num_micro_batches": 1, **settings}
        return TrainingBatches(samples, MARKED, batch_size=16, seed=0, **all_settings)

    plain, alone = batches_over(samples, 16), marked()
    assert (alone.max_units, plain.max_units) == (14, 12)
    for index in range(12):
        found = documents(alone, index)
        assert [[unit - 2 for unit in one if unit != 1] for one in found] == [
            [unit - 1 for unit in one] for one in documents(plain, index)
        ], "BOS and EOS must not change the order"
        assert alone[index].num_targets == sum(len(one) - 1 for one in found)
        assert alone[index].num_units == plain[index].num_units
        parts = [part for rank in range(2) for part in documents(marked(rank=rank, world_size=2), index)]
        assert parts == found
    for key, units in zip(alone.keys(0), documents(alone, 0), strict=True):
        if len(markov_units[int(key.partition("-")[2])]) <= 12:
            assert units[0] == units[-1] == 1


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
    with pytest.raises(TwistError, match=r"train-000000\.tar has \d+ bytes, not 10240"):
        samples[0]
    shard.unlink()
    with pytest.raises(TwistError, match=r"train-000000\.tar is missing"):
        samples[0]


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda shard: shard.unlink(), "is missing"),
    "cut": (lambda shard: shard.write_bytes(shard.read_bytes()[:-700]), "has .* bytes, not"),
    "altered": (lambda shard: shard.write_bytes(b"\xff" * shard.stat().st_size), "is damaged: .* packed"),
    "impossible": (lambda shard: shard.write_bytes(b"\xff" * shard.stat().st_size), "holds unit 65535"),
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_named_or_left_out_and_counted(
    make_dataset: MakeDataset,
    markov_units: list[NDArray[np.uint16]],
    tmp_path: Path,
    name: str,
    cached: bool,
) -> None:
    damage, message = DAMAGES[name]
    dataset = make_dataset({"train": markov_units})
    damage(Path(dataset.uri, "train/train-000001.tar"))
    cache = str(tmp_path / "cache") if cached else None
    fail = LoaderConfig(verify_checksums=name != "impossible", cache=cache)
    with pytest.raises(TwistError, match=rf"train-000001\.tar {message}"):
        for index in range(8):
            batches_over(UnitSamples(dataset, "train", 40, fail), 8)[index]

    samples = UnitSamples(dataset, "train", 40, replace(fail, damaged="skip"))
    batches = batches_over(samples, len(samples))
    with pytest.warns(UserWarning, match=rf"train-000001\.tar {message}.*left out"):
        batch = batches[0]
    assert batch.num_skipped == 30
    sound = sorted(VOCABULARY.encode(units).tolist() for units in markov_units[::2])
    assert sorted(documents(batches, 0)) == sound, "other samples than the sound shard's"
    assert batches_over(samples, len(samples)).sample_indices(0).tolist() == batches.sample_indices(0).tolist()


def flip(shard: Path, bit: int) -> None:
    """Turns one bit of a file, the first byte's lowest being number 0."""
    content = bytearray(shard.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    shard.write_bytes(content)


@pytest.mark.parametrize("cached", [False, True])
def test_any_flipped_bit_of_a_unit_is_found(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]], tmp_path: Path, cached: bool
) -> None:
    dataset = make_dataset({"train": markov_units[:4]})
    shard = Path(dataset.uri, "train/train-000000.tar")
    data = LoaderConfig(cache=str(tmp_path / "cache") if cached else None)
    for row in dataset.manifest.slice(0, 2).to_pylist():
        for bit in range(8 * row["units_offset"], 8 * (row["units_offset"] + 2 * row["num_units"])):
            flip(shard, bit)
            with pytest.raises(TwistError, match=rf"000000\.tar is damaged: the units of sample '{row['key']}' are"):
                UnitSamples(dataset, "train", 40, data)[0]
            flip(shard, bit)
    assert UnitSamples(dataset, "train", 40, data)[0].tolist() == markov_units[0].tolist()


def test_a_damaged_sample_alone_is_left_out_and_counted(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]
) -> None:
    dataset = make_dataset({"train": markov_units})
    row = dataset.row(3)
    flip(Path(dataset.uri, row["shard"]), 8 * row["units_offset"])
    samples = UnitSamples(dataset, "train", 40, LoaderConfig(damaged="skip"))
    with pytest.warns(UserWarning, match=f"'{row['key']}' are not those that were packed.*left out"):
        batch = batches_over(samples, len(samples))[0]
    assert batch.num_skipped == 1
    sound = [units for number, units in enumerate(markov_units) if number != 6]  # every other one is in the first shard
    assert sorted(documents(batches_over(samples, len(samples)), 0)) == sorted(
        VOCABULARY.encode(units).tolist() for units in sound
    )


def test_units_kept_unchecked_are_fetched_again(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]], tmp_path: Path
) -> None:
    dataset = make_dataset({"train": markov_units})
    row = dataset.row(0)
    unchecked = LoaderConfig(cache=str(tmp_path / "cache"), verify_checksums=False)
    flip(Path(dataset.uri, row["shard"]), 8 * row["units_offset"])
    assert UnitSamples(dataset, "train", 40, unchecked)[0].tolist() != markov_units[0].tolist()
    flip(Path(dataset.uri, row["shard"]), 8 * row["units_offset"])
    checked = replace(unchecked, verify_checksums=True)
    assert UnitSamples(dataset, "train", 40, checked)[0].tolist() == markov_units[0].tolist()


def test_shards_from_before_samples_had_checksums_are_held_to_those_of_shards(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]
) -> None:
    dataset = make_dataset({"train": markov_units})
    old = dataset.manifest.select(UNCHECKED_SCHEMA.names).cast(UNCHECKED_SCHEMA)
    parquet.write(str(Path(dataset.uri, "manifest.parquet")), old)
    samples = UnitSamples(open_dataset(dataset.uri), "train", 40)
    assert samples[0].tolist() == markov_units[0].tolist()
    assert samples.held_to.startswith("the checksum of each shard")
    flip(Path(dataset.uri, "train/train-000000.tar"), 0)
    with pytest.raises(TwistError, match=r"train-000000\.tar does not have the checksum in dataset\.json"):
        UnitSamples(open_dataset(dataset.uri), "train", 40)[0]


def test_what_units_are_held_to_is_told(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> None:
    dataset = make_dataset({"train": markov_units})
    assert UnitSamples(dataset, "train", 40).held_to == "the checksum of each sample"
    unchecked = UnitSamples(dataset, "train", 40, LoaderConfig(verify_checksums=False))
    assert unchecked.held_to == "the sizes of shards alone (data.verify_checksums is false)"


def test_a_shard_that_is_cut_while_it_is_read_is_named(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"train": [np.arange(10, dtype=np.uint16)] * 600})
    samples = UnitSamples(dataset, "train", 40)
    assert samples.blocks[-1] > samples.blocks[0]
    samples[0]
    os.truncate(Path(dataset.uri, "train/train-000000.tar"), 100_000)
    with pytest.raises(TwistError, match=r"train-000000\.tar ends before its last units; restore it or pack again"):
        for index in range(300):
            samples[index]


def test_a_step_of_nothing_but_damage_has_no_targets(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]
) -> None:
    dataset = make_dataset({"train": markov_units})
    for path in Path(dataset.uri).rglob("*.tar"):
        path.unlink()
    samples = UnitSamples(dataset, "train", 40, LoaderConfig(damaged="skip"))
    with pytest.warns(UserWarning, match="is missing"):
        batch = batches_over(samples, 4)[0]
    assert batch.num_skipped == 4
    assert [(len(one.token_ids), one.lengths) for one in batch.micro_batches] == [(0, ())]


def test_weights_of_corpora(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> None:
    dataset = make_dataset({"train": markov_units}, corpora=("a", "b", "c"))

    def seen(num_batches: int, **weights: float) -> Counter[str]:
        samples = UnitSamples(dataset, "train", 64, LoaderConfig(corpus_weights=weights))
        batches = batches_over(samples, 10)
        corpora = samples.corpora()
        return Counter(str(corpora[i]) for index in range(num_batches) for i in batches.sample_indices(index))

    assert seen(6) == {"a": 20, "b": 20, "c": 20}
    found = seen(70, a=2.0, b=0.5)  # ten epochs
    assert [found[name] for name in "abc"] == pytest.approx([400, 100, 200], abs=5)
    assert seen(4, a=0.0) == {"b": 20, "c": 20}
    with pytest.raises(TwistError, match="names d; the corpora are a, b, c"):
        seen(1, d=1.0)
    with pytest.raises(TwistError, match="leaves no sample"):
        seen(1, a=0.0, b=0.0, c=0.0)


def write_samples(folder: Path, order: int = 1) -> Dataset:
    """2000 samples of three units each in a shard, in this order (1) or its reverse (-1)."""
    samples = [
        Sample(
            make_key(f"r{i}"), f"r{i}", "c", None, None, "train", 0.0, 1.0, np.full(3, i % 9, "u2"), np.ones(3, "u2")
        )
        for i in range(2000)
    ]
    description, rows = write_shard(str(folder), "train/a.tar", samples[::order])
    return write_index(
        str(folder), {"num_units": 20, "codebook": {"fingerprint": "book"}, "shards": [description]}, rows
    )


def test_shares_are_nested_and_do_not_depend_on_the_order_of_the_shards(tmp_path: Path) -> None:
    def keys(dataset: Dataset, share: float) -> set[str]:
        chosen = UnitSamples(dataset, "train", 8, LoaderConfig(share=share))
        return {chosen.key(i) for i in range(len(chosen))}

    dataset, turned = write_samples(tmp_path / "one"), write_samples(tmp_path / "two", order=-1)
    found = {share: keys(dataset, share) for share in (0.01, 0.1, 0.5, 1.0)}
    assert found[0.01] < found[0.1] < found[0.5] < found[1.0]
    for share, chosen in found.items():
        assert len(chosen) == pytest.approx(2000 * share, abs=4 * (2000 * share) ** 0.5)
        assert keys(turned, share) == chosen


@pytest.mark.parametrize("cached", [False, True])
def test_an_epoch_of_a_share_reads_about_that_share_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    dataset = write_samples(tmp_path / "shards")
    num_bytes = Path(dataset.uri, "train/a.tar").stat().st_size
    whole = UnitSamples(dataset, "train", 8)
    expected = {whole.key(i): whole[i].tolist() for i in range(len(whole))}
    read: list[int] = []
    read_range = ShardReader._read_range

    def counted(reader: ShardReader, shard: int, start: int, length: int) -> bytes:
        read.append(length)
        return read_range(reader, shard, start, length)

    monkeypatch.setattr(ShardReader, "_read_range", counted)
    for share in (0.01, 0.1, 1.0):
        read.clear()
        cache = str(tmp_path / f"cache-{share}") if cached else None
        samples = UnitSamples(dataset, "train", 8, LoaderConfig(share=share, cache=cache))
        units = samples.read(np.arange(len(samples)))
        assert [expected[samples.key(i)] for i in range(len(samples))] == [
            found.tolist() for found in units if found is not None
        ]
        assert sum(read) <= 1.5 * share * num_bytes
    assert len(read) == samples.blocks[-1] + 1, "of all samples, a block is one read"


def test_what_the_cache_keeps_of_one_share_is_not_taken_for_another(tmp_path: Path) -> None:
    dataset = write_samples(tmp_path / "shards")
    for share in np.linspace(0.24, 0.25, 20).tolist():  # each with about a sample more, so with blocks of equal size
        data = LoaderConfig(share=share, verify_checksums=False)
        plain, kept = (
            UnitSamples(dataset, "train", 8, replace(data, cache=cache)) for cache in (None, str(tmp_path / "cache"))
        )
        indices = np.arange(len(plain))
        assert np.array_equal(plain.read(indices), kept.read(indices)), f"units of another share than {share}"


def test_units_are_kept_in_the_cache_and_damage_in_it_is_mended(
    make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]], tmp_path: Path
) -> None:
    dataset = make_dataset({"train": markov_units})
    data = LoaderConfig(cache=str(tmp_path / "cache"))
    plain = [documents(batches_over(UnitSamples(dataset, "train", 32), 16), index) for index in range(4)]
    read = [documents(batches_over(UnitSamples(dataset, "train", 32, data), 16), index) for index in range(4)]
    assert read == plain
    kept = sorted((tmp_path / "cache").rglob("*.units"))
    assert sum(path.stat().st_size for path in kept) == 2 * sum(map(len, markov_units)) + 4 * len(kept)
    kept[0].write_bytes(kept[0].read_bytes()[:-5] + b"other")
    kept[1].write_bytes(b"")
    assert [documents(batches_over(UnitSamples(dataset, "train", 32, data), 16), i) for i in range(4)] == plain
    for path in Path(dataset.uri).rglob("*.tar"):  # what is kept is not fetched again
        path.write_bytes(b"\0" * path.stat().st_size)
    assert [documents(batches_over(UnitSamples(dataset, "train", 32, data), 16), i) for i in range(4)] == plain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "above 0"),
        ({"share": 1.5}, "at most 1"),
        ({"damaged": "mend"}, "fail or skip"),
        ({"corpus_weights": {"a": -1.0}}, "at least 0"),
        ({"corpus_weights": {"a": float("nan")}}, "at least 0"),
        ({"cache": "s3://bucket"}, "a local folder"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        LoaderConfig(**settings)


class TestOnS3:
    """Shards on a server that fails half of the requests."""

    @pytest.fixture
    def remote(
        self, make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Dataset]:
        dataset = make_dataset({"train": markov_units})
        with moto() as endpoint, FaultyProxy(endpoint, seed=1).running() as proxy:
            point_clients_at(endpoint, monkeypatch)
            boto3.client("s3").create_bucket(Bucket="shards")
            for path in Path(dataset.uri).rglob("*"):
                if path.is_file():
                    storage.write_bytes(f"s3://shards/{path.relative_to(dataset.uri)}", path.read_bytes())
            point_clients_at(proxy.url, monkeypatch)
            monkeypatch.setattr(s3, "LONGEST_PAUSE_S", 0.2)
            yield dataset
            s3.client_of_process.cache_clear()

    def test_batches_are_those_of_local_shards(self, remote: Dataset, tmp_path: Path) -> None:
        plain = [documents(batches_over(UnitSamples(remote, "train", 32), 16), index) for index in range(4)]
        for data in (LoaderConfig(), LoaderConfig(cache=str(tmp_path / "cache"))):
            samples = UnitSamples(open_dataset("s3://shards"), "train", 32, data)
            assert [documents(batches_over(samples, 16), index) for index in range(4)] == plain

    @pytest.mark.usefixtures("remote")
    def test_a_damaged_shard_is_named(self) -> None:
        storage.delete("s3://shards/train/train-000000.tar")
        samples = UnitSamples(open_dataset("s3://shards"), "train", 32)
        with pytest.raises(TwistError, match=r"s3://shards/train/train-000000\.tar is missing"):
            batches_over(samples, 16)[0]


def test_uneven_batch_is_refused() -> None:
    samples = Mock(spec=UnitSamples)
    with pytest.raises(TwistError, match="make it a multiple of 6"):
        batches_over(samples, 16, world_size=3, num_micro_batches=2)
