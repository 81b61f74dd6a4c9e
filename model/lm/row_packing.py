"""Puts samples into rows of equal length, for trainers that need that: one per row, padded, or several per row."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.lm.speech_lm import IGNORED_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.loader import MicroBatch


@dataclass(frozen=True)
class Rows:
    """The samples of one forward pass.

    Attributes:
        token_ids: [B, T] int64, padded on the right.
        labels: [B, T] int64: the same, with IGNORED_LABEL where nothing is predicted.
        document_ids: [B, T] int32: the document of its row that a token belongs to, from 0; -1 for padding. None if
            each row is one document.
    """

    token_ids: Tensor
    labels: Tensor
    document_ids: Tensor | None = None


def padded_rows(micro_batch: MicroBatch, pad_id: int) -> Rows:
    """One sample per row, padded to the longest; without samples, one row of one pad."""
    lengths = micro_batch.lengths
    token_ids = np.full((max(1, len(lengths)), max(lengths, default=1)), pad_id)
    for row, document in enumerate(_documents(micro_batch)):
        token_ids[row, : len(document)] = document
    labels = token_ids.copy()
    for row, length in enumerate(lengths or [0]):
        labels[row, length:] = IGNORED_LABEL
    return Rows(torch.from_numpy(token_ids), torch.from_numpy(labels))


def packed_rows(micro_batch: MicroBatch, pad_id: int, row_units: int) -> Rows:
    """Several samples per row of `row_units`, in few rows (see `fit_rows`); without samples, one row of pads.

    The first unit of a document is not a target, so the targets are the same as with padded rows.
    """
    documents = _documents(micro_batch)
    rows = fit_rows(micro_batch.lengths, row_units) or [[]]
    token_ids = np.full((len(rows), row_units), pad_id)
    document_ids = np.full(token_ids.shape, -1, np.int32)
    for number, row in enumerate(rows):
        end = 0
        for document_id, sample in enumerate(row):
            start, end = end, end + len(documents[sample])
            token_ids[number, start:end] = documents[sample]
            document_ids[number, start:end] = document_id
    is_first = np.diff(document_ids, axis=1, prepend=-1) != 0
    labels = np.where(is_first | (document_ids < 0), IGNORED_LABEL, token_ids)
    return Rows(torch.from_numpy(token_ids), torch.from_numpy(labels), torch.from_numpy(document_ids))


def _documents(micro_batch: MicroBatch) -> list[NDArray[np.int64]]:
    """The ids of each sample, as numpy arrays: numpy copies them into rows twice as fast as torch."""
    token_ids = micro_batch.token_ids.numpy()
    ends = itertools.accumulate(micro_batch.lengths)
    return [token_ids[end - length : end] for end, length in zip(ends, micro_batch.lengths, strict=True)]


def fit_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Distributes samples among rows: longest first, each into the fullest row that has room (best-fit decreasing).

    It needs at most 22% plus one row more than the optimum.

    Args:
        lengths: Length of each sample, at most `row_length`.
        row_length: Length of a row.

    Returns:
        The indices of the samples in each row; every sample is in one row, whole.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free length, row), ascending
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        length = lengths[sample]
        assert length <= row_length, f"a sample of {length} units does not fit into a row of {row_length}"
        place = bisect.bisect_left(room, (length, -1))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = row_length, len(rows)
            rows.append([])
        rows[row].append(sample)
        bisect.insort(room, (left - length, row))
    return rows
