"""Decides which segments are dropped and why; the first reason found counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.packing import duplicates
from pipeline.records import DROPPED_SCHEMA, SPLITS
from pipeline.stage import Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.packing.config import DuplicatesConfig
    from pipeline.packing.facts import Facts

KEPT, EVALUATION, DEGENERATE, DUPLICATE, NEAR_DUPLICATE = range(5)
NAMES = ("", "evaluation", "degenerate", "duplicate", "near_duplicate")


class Reasons:
    """Why each segment is dropped, as an index of NAMES (KEPT if it is not).

    Args:
        facts: The facts about all segments.
        splits: [n] the split of each segment, as an index of SPLITS.
    """

    def __init__(self, facts: Facts, splits: NDArray[np.int8]) -> None:
        self._facts = facts
        self._splits = splits
        self._reasons = np.zeros(len(facts), np.uint8)
        for rows, table in facts.tables(["reason"]):
            reasons = pc.fill_null(pc.index_in(table["reason"], pa.array(NAMES)), KEPT)
            self._reasons[rows] = reasons.to_numpy()
        # Rows and details of duplicates; details of the other reasons are among the facts.
        self._twinned: list[NDArray[np.int64]] = []
        self._details: list[pa.Array] = []

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Whether each segment is kept, [n]."""
        is_kept: NDArray[np.bool_] = self._reasons == KEPT
        return is_kept

    def drop_exact(self) -> None:
        """Drops segments whose units and durations equal another's."""
        contents = self._facts.contents()
        candidates = np.flatnonzero(_comes_twice(contents[:, 0]) & self.kept)
        contents = contents[candidates]
        order = np.argsort(self._priority(candidates))
        gone, twins = duplicates.find_exact((contents[:, 0], contents[:, 1]), order)
        ids = self._facts.ids_of(candidates[twins])
        nothing = pa.scalar("", ids.type)
        details = pc.binary_join_element_wise(pa.scalar("same units as ", ids.type), ids, nothing)
        self._drop(candidates[gone], DUPLICATE, details)

    def drop_near(self, similar: pa.Table, config: DuplicatesConfig, frame_rate_hz: float) -> None:
        """Drops segments that have the speech of another.

        Args:
            similar: Compared segments (SIMILAR_SCHEMA), numbered in the order of batches.
            config: The thresholds.
            frame_rate_hz: Frame rate of the units.
        """
        left, right = (self._facts.by_batch[similar[name].to_numpy()] for name in ("left", "right"))
        # `choose_twins` gets only the segments that were compared, renumbered.
        rows, numbers = np.unique(np.concatenate([left, right]), return_inverse=True)
        for name, values in zip(("left", "right"), np.split(numbers, 2), strict=True):
            similar = similar.set_column(similar.column_names.index(name), name, pa.array(values))
        priority = self._priority(rows)
        priority[~self.kept[rows]] = -1
        frames = self._facts.num_frames[rows].astype(np.int64)
        twins = duplicates.choose_twins(similar, priority, frames, self._splits[rows] > 0, config)
        ids = self._facts.ids_of(rows[[twin for twin, _, _ in twins.values()]]).to_pylist()
        details = [
            f"same speech as {id}, similarity {similarity:.2f} over {overlap / frame_rate_hz:.1f} s"
            for id, (_, similarity, overlap) in zip(ids, twins.values(), strict=True)
        ]
        self._drop(rows[list(twins)], NEAR_DUPLICATE, pa.array(details, pa.large_string()))

    def _priority(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """The rank of each row (the lowest may stay first): evaluation before training, then the longer, then by id."""
        order = np.lexsort((rows, -self._facts.num_frames[rows], -self._splits[rows]))
        priority = np.empty(len(rows), np.int64)
        priority[order] = np.arange(len(rows))
        return priority

    def _drop(self, rows: NDArray[np.int64], reason: int, details: pa.Array) -> None:
        self._reasons[rows] = reason
        self._twinned.append(rows)
        self._details.append(details)

    def tallies(self) -> tuple[Tally, Tally]:
        """Number and hours of all segments, and of those that are kept."""
        num_kept = 0
        total_s = kept_s = 0.0
        for rows, table in self._facts.tables(["start_s", "end_s"]):
            seconds = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
            is_kept = self._reasons[rows] == KEPT
            num_kept += int(is_kept.sum())
            total_s, kept_s = total_s + float(seconds.sum()), kept_s + float(seconds[is_kept].sum())
        return Tally(len(self._facts), total_s / 3600), Tally(num_kept, kept_s / 3600)

    def kept_hours_by_split(self, among: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Hours [splits] of those of these segments ([n], true for each of them) that are kept."""
        seconds = np.zeros(len(SPLITS))
        for rows, table in self._facts.tables(["start_s", "end_s"]):
            is_counted = among[rows] & (self._reasons[rows] == KEPT)
            durations_s = pc.subtract(table["end_s"], table["start_s"]).to_numpy() * is_counted
            seconds += np.bincount(self._splits[rows], durations_s, len(SPLITS))
        hours: NDArray[np.float64] = seconds / 3600
        return hours

    def dropped(self, corpora: pa.Array) -> pa.Table:
        """All dropped segments, in the order of ids (DROPPED_SCHEMA).

        Args:
            corpora: [recordings] the corpus of each of `Facts.recording_ids`.
        """
        twinned = np.concatenate([np.empty(0, np.int64), *self._twinned])
        details = pa.chunked_array(self._details, pa.large_string()).combine_chunks()
        order = np.argsort(twinned)
        twinned = twinned[order]
        found = [DROPPED_SCHEMA.empty_table()]
        for block, table in self._facts.tables(["segment_id", "start_s", "end_s", "detail"]):
            reasons = self._reasons[block]
            gone = np.flatnonzero(reasons)
            first, end = np.searchsorted(twinned, [block.start, block.stop])
            of_twins = details.take(pa.array(order[first:end])).cast(pa.string())
            table = table.take(pa.array(gone))
            columns = {
                "id": table["segment_id"].cast(pa.string()),
                "corpus": corpora.take(pa.array(self._facts.recording[block][gone])),
                "reason": pa.array(NAMES).take(pa.array(reasons[gone])),
                "detail": pc.replace_with_mask(
                    table["detail"].combine_chunks(), pa.array(reasons[gone] >= DUPLICATE), of_twins
                ),
                "duration_s": pc.subtract(table["end_s"], table["start_s"]),
                "num_items": pa.array(np.ones(len(gone), np.int8)),
            }
            found.append(pa.table(columns, schema=DROPPED_SCHEMA))
        return pa.concat_tables(found).combine_chunks()


def _comes_twice(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each value occurs more than once, [n]."""
    in_order = np.sort(values)
    repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(repeated):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(repeated, values), len(repeated) - 1)
    is_repeated: NDArray[np.bool_] = repeated[place] == values
    return is_repeated
