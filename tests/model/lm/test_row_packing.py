from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.lm.loader import MicroBatch, collate
from model.lm.row_packing import Rows, fit_rows, packed_rows, padded_rows
from model.lm.vocab import Vocabulary

VOCABULARY = Vocabulary(20)
PAD = VOCABULARY.pad_id


@given(lengths=st.lists(st.integers(1, 50), max_size=80), spare=st.integers(0, 100))
def test_each_sample_is_in_one_row_whole(lengths: list[int], spare: int) -> None:
    row_length = max(lengths, default=1) + spare
    rows = fit_rows(lengths, row_length)
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[sample] for sample in row) <= row_length for row in rows)
    # Any two rows together exceed one row; otherwise they would have been merged.
    fills = sorted(sum(lengths[sample] for sample in row) for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > row_length


def test_what_fits_exactly_is_put_together() -> None:
    rows = fit_rows([6, 4, 7, 3, 5, 5], 10)
    assert sorted(map(sorted, rows)) == [[0, 1], [2, 3], [4, 5]]


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=30), spare=st.integers(0, 60), seed=st.integers(0, 3))
def test_packed_rows_score_the_very_targets_of_padded_rows(lengths: list[int], spare: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    micro_batch = collate([generator.integers(0, 20, length).astype(np.uint16) for length in lengths], VOCABULARY)
    packed = packed_rows(micro_batch, PAD, max(lengths) + spare)
    assert packed.token_ids.shape[1] == max(lengths) + spare
    assert packed.document_ids is not None
    samples = torch.split(micro_batch.token_ids, lengths)
    assert sorted(documents(packed)) == sorted(sample.tolist() for sample in samples)

    def scored(rows: Rows) -> Counter[tuple[int, ...]]:
        """Counts each target together with the ids before it in its document."""
        found: Counter[tuple[int, ...]] = Counter()
        ids = rows.document_ids
        for row, labels in enumerate(rows.labels):
            for place in range(1, len(labels)):
                if labels[place] == -100:
                    continue
                assert labels[place] == rows.token_ids[row, place]
                context = rows.token_ids[row, :place]
                if ids is not None:
                    context = context[ids[row, :place] == ids[row, place]]
                found[(*context.tolist(), int(labels[place]))] += 1
        return found

    assert scored(packed) == scored(padded_rows(micro_batch, PAD))
    at_pads = packed.document_ids < 0
    assert (packed.token_ids[at_pads] == PAD).all()
    assert (packed.labels[at_pads] == -100).all()


def documents(rows: Rows) -> list[list[int]]:
    """The ids of each sample."""
    ids = (rows.token_ids != PAD).int() - 1 if rows.document_ids is None else rows.document_ids
    return [
        tokens[row == number].tolist()
        for tokens, row in zip(rows.token_ids, ids, strict=True)
        for number in range(int(row.max()) + 1)
    ]


def test_padded_rows_by_hand() -> None:
    rows = padded_rows(MicroBatch(torch.tensor([5, 1, 20, 8, 8]), (3, 2)), PAD)
    assert rows.token_ids.tolist() == [[5, 1, 20], [8, 8, 0]]
    assert rows.labels.tolist() == [[5, 1, 20], [8, 8, -100]]


def test_packed_rows_by_hand() -> None:
    rows = packed_rows(MicroBatch(torch.tensor([5, 1, 20, 8, 8, 3, 4]), (3, 2, 2)), PAD, 5)
    assert rows.document_ids is not None
    assert rows.token_ids.tolist() == [[5, 1, 20, 8, 8], [3, 4, 0, 0, 0]]
    assert rows.labels.tolist() == [[-100, 1, 20, -100, 8], [-100, 4, -100, -100, -100]]
    assert rows.document_ids.tolist() == [[0, 0, 0, 1, 1], [0, 0, -1, -1, -1]]


def test_no_samples_are_rows_of_pads() -> None:
    nothing = MicroBatch(torch.empty(0, dtype=torch.int64), ())
    for rows, shape in ((padded_rows(nothing, PAD), (1, 1)), (packed_rows(nothing, PAD, 5), (1, 5))):
        assert rows.token_ids.shape == shape
        assert (rows.token_ids == PAD).all()
        assert (rows.labels == -100).all()
