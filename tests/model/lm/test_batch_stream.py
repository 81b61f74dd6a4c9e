"""Rows for other trainers, and a stream that resumes where it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from model.lm.batch_stream import BatchStream, RowBatch
from model.lm.loader import TrainingBatches
from model.lm.loader_config import LoaderConfig
from model.lm.row_packing import padded_rows
from model.lm.samples import UnitSamples
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.shards import Dataset
    from tests.model.conftest import MakeDataset

VOCABULARY = Vocabulary(20)


@pytest.fixture
def dataset(make_dataset: MakeDataset, markov_units: list[NDArray[np.uint16]]) -> Dataset:
    return make_dataset({"train": markov_units})


@pytest.fixture
def samples(dataset: Dataset) -> UnitSamples:
    return UnitSamples(dataset, "train", 32)


def batches_over(samples: UnitSamples, batch_size: int = 8, **settings: int) -> TrainingBatches:
    return TrainingBatches(samples, VOCABULARY, batch_size=batch_size, seed=0, **{"num_micro_batches": 1, **settings})


def documents(batch: RowBatch) -> list[list[int]]:
    """The ids of each sample of a batch, whatever its rows."""
    found = []
    for rows in batch.micro_batches:
        ids = (rows.token_ids != VOCABULARY.pad_id).int() - 1 if rows.document_ids is None else rows.document_ids
        for tokens, row in zip(rows.token_ids, ids, strict=True):
            found += [tokens[row == number].tolist() for number in range(int(row.max()) + 1)]
    return found


def padded(batches: TrainingBatches, start: int, stop: int) -> list[list[list[int]]]:
    """The samples of each batch, in order."""
    return [documents(batch) for batch in BatchStream(batches, start, stop)]


@pytest.mark.parametrize(("rows", "row_units"), [("padded", None), ("packed", None), ("packed", 100)])
def test_a_step_has_the_same_samples_in_any_rows(
    samples: UnitSamples, rows: Literal["padded", "packed"], row_units: int | None
) -> None:
    batches = batches_over(samples, 16)
    ranks = [
        list(
            BatchStream(
                batches_over(samples, 16, num_micro_batches=2, rank=rank, world_size=4),
                0,
                4,
                rows=rows,
                row_units=row_units,
            )
        )
        for rank in range(4)
    ]
    for index, parts in enumerate(zip(*ranks, strict=True)):
        (expected,) = batches[index].micro_batches
        ids = [document.tolist() for document in torch.split(expected.token_ids, list(expected.lengths))]
        assert sorted(document for part in parts for document in documents(part)) == sorted(ids)
        assert {(part.index, part.num_units, part.num_targets) for part in parts} == {
            (index, batches[index].num_units, batches[index].num_targets)
        }
        if rows == "packed":
            assert {one.token_ids.shape[1] for part in parts for one in part.micro_batches} == {row_units or 32}


def test_padded_rows_are_in_order(samples: UnitSamples) -> None:
    batches = batches_over(samples)
    for batch, index in zip(BatchStream(batches, 3, 6), range(3, 6), strict=True):
        expected = padded_rows(batches[index].micro_batches[0], VOCABULARY.pad_id)
        assert torch.equal(batch.micro_batches[0].token_ids, expected.token_ids)
        assert torch.equal(batch.micro_batches[0].labels, expected.labels)


def test_a_step_of_nothing_but_damage_has_no_targets(dataset: Dataset) -> None:
    for path in Path(dataset.uri).rglob("*.tar"):
        path.unlink()
    for rows in ("padded", "packed"):
        batches = batches_over(UnitSamples(dataset, "train", 40, LoaderConfig(damaged="skip")))
        with pytest.warns(UserWarning, match="is missing"):
            (batch,) = BatchStream(batches, 0, 1, rows=rows)  # type: ignore[arg-type]
        assert batch.num_skipped == 8
        assert all((one.labels == -100).all() for one in batch.micro_batches)


def loader(stream: BatchStream, num_workers: int) -> StatefulDataLoader[RowBatch]:
    return StatefulDataLoader(stream, batch_size=None, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_stateful_dataloader_goes_on_with_the_very_next_batch(
    samples: UnitSamples, num_workers: int, taken: int
) -> None:
    expected = padded(batches_over(samples), 0, 12)
    first = loader(BatchStream(batches_over(samples), 0, 12), num_workers)
    iterator = iter(first)
    assert [documents(next(iterator)) for _ in range(taken)] == expected[:taken]
    state = first.state_dict()
    second = loader(BatchStream(batches_over(samples), 0, 12), num_workers)
    second.load_state_dict(state)
    assert [documents(batch) for batch in second] == expected[taken:], "batches were lost, repeated or changed"

    # By the number of batches it can resume with other numbers of workers and ranks.
    state = batches_over(samples).state_dict(taken)
    for others in (0, 3):
        ranks = []
        for rank in range(2):
            stream = BatchStream(batches_over(samples, rank=rank, world_size=2), 0, 12)
            stream.load_state_dict(state)
            ranks.append([documents(batch) for batch in loader(stream, others)])
        assert [[*one, *other] for one, other in zip(*ranks, strict=True)] == expected[taken:]


def test_a_workers_state_is_refused_by_another_worker(samples: UnitSamples) -> None:
    batches = batches_over(samples)
    stream = BatchStream(batches, 0, 12)
    stream.load_state_dict({**batches.state_dict(3), "part": (1, 2)})
    with pytest.raises(TwistError, match="taken in worker 1 of 2"):
        next(iter(stream))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": "long"}, "padded or packed"),
        ({"row_units": 100}, "is for packed rows"),
        ({"rows": "packed", "row_units": 31}, "row_units is 31, but samples have up to 32"),
    ],
    ids=str,
)
def test_impossible_rows_are_refused(samples: UnitSamples, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        BatchStream(batches_over(samples), 0, 1, **settings)
