"""The page of packing: what was dropped before shards were written, and what is in which split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from pipeline import stage
from pipeline.files import parquet, storage
from pipeline.records import SPLITS
from pipeline.report.chart import hours_chart
from pipeline.report.group_sums import GroupSums
from pipeline.runs import SHARDS

if TYPE_CHECKING:
    from pipeline.report.chart import Chart
    from pipeline.report.listening import Pair
    from pipeline.shards import Dataset


@dataclass(frozen=True)
class Split:
    """What is in one split. `num_unknown` samples are of nobody who is known."""

    name: str
    num_samples: int
    hours: float
    num_units: int
    num_speakers: int
    num_unknown: int


@dataclass(frozen=True)
class PackedDrop:
    """What packing left out of a corpus for one reason."""

    reason: str
    corpus: str
    num_items: int
    hours: float


@dataclass(frozen=True)
class PackingFigures:
    """The shards of a run. `split_by` says what is in one split only; `num_torn` speakers are in two all the same."""

    num_shards: int
    num_bytes: int
    split_by: str
    num_torn: int
    splits: tuple[Split, ...]
    dropped: tuple[PackedDrop, ...]
    charts: tuple[Chart, ...]
    pairs: tuple[Pair, ...]


def read_packing(run: str, dataset: Dataset, pairs: tuple[Pair, ...]) -> PackingFigures:
    """Reads the figures of finished shards, a row group at a time.

    Raises:
        TwistError: a table is damaged.
    """
    sums = GroupSums(["speaker", "split"], ["duration_s", "num_units"])
    for table in dataset.rows(["speaker", "split", "duration_s", "num_units"]):
        sums.add(table)
    by_speaker = sums.table()
    known = by_speaker.filter(pc.is_valid(by_speaker["speaker"]))
    of_speaker = known.group_by("speaker").aggregate([("split", "count")])
    splits = []
    for name in SPLITS:
        rows = by_speaker.filter(pc.equal(by_speaker["split"], name))
        if not len(rows):
            continue
        unknown = rows.filter(pc.is_null(rows["speaker"]))
        total = {column: pc.sum(rows[column]).as_py() or 0 for column in ("count", "duration_s", "num_units")}
        num_unknown = pc.sum(unknown["count"]).as_py() or 0
        num_speakers = len(rows) - len(unknown)
        splits.append(
            Split(name, total["count"], total["duration_s"] / 3600, total["num_units"], num_speakers, num_unknown)
        )
    shards = dataset.info["shards"]
    return PackingFigures(
        len(shards),
        sum(shard["num_bytes"] for shard in shards),
        str(dataset.info.get("split_by", "speaker")),
        pc.sum(pc.greater(of_speaker["split_count"], 1)).as_py() or 0,
        tuple(splits),
        _dropped(run),
        (_split_chart(dataset),),
        pairs,
    )


def _dropped(run: str) -> tuple[PackedDrop, ...]:
    sums = GroupSums(["reason", "corpus"], ["num_items", "duration_s"])
    for table in parquet.iterate(
        storage.join(run, SHARDS, stage.DROPPED), ["reason", "corpus", "num_items", "duration_s"]
    ):
        sums.add(table)
    rows = [PackedDrop(row["reason"], row["corpus"], row["num_items"], row["duration_s"] / 3600) for row in sums.rows()]
    return tuple(sorted(rows, key=lambda row: (row.reason, -row.hours)))


def _split_chart(dataset: Dataset) -> Chart:
    totals = dataset.info["totals"]
    hours = {(total["corpus"], total["split"]): total["hours"] for total in totals}
    corpora = sorted({corpus for corpus, _ in hours})
    splits = [split for split in SPLITS if any((corpus, split) in hours for corpus in corpora)]
    hours_of = {split: [hours.get((corpus, split), 0.0) for corpus in corpora] for split in splits}
    return hours_chart("Audio in each split", corpora, hours_of)
