"""The page to listen to: clips drawn from what was kept and from what was dropped, by corpus and by reason."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import stage
from pipeline.files import parquet, storage
from pipeline.report.draw import draw_rows
from pipeline.runs import SHARDS, STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.report.clips import Clip
    from pipeline.report.cutting import Cutter
    from pipeline.shards import Dataset

KEPT = "kept"
# In details of duplicates (packing/reasons.py): the segment that stayed.
TWIN = re.compile(r"same (?:units|speech) as (.*?)(?:, similarity .*)?")
DUPLICATES = ("duplicate", "near_duplicate")


@dataclass(frozen=True)
class Wanted:
    """What a clip is to be cut from: a segment or a recording, and what became of it where.

    `row` is what the shards' manifest says of what was kept.
    """

    id: str
    counts: str
    stage: str
    fate: str
    detail: str = ""
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class Group:
    """Clips with one fate at one stage, and how many such there are in all; `title` says which."""

    stage: str
    title: str
    num_items: int
    hours: float
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Pair:
    """A duplicate that was dropped, and the segment that stays in its place."""

    dropped: Clip
    kept: Clip


@dataclass(frozen=True)
class ListeningFigures:
    """All clips: kept ones by corpus, then dropped ones by stage and reason."""

    kept: tuple[Group, ...]
    dropped: tuple[Group, ...]


@dataclass(frozen=True)
class Drawn:
    """What is to be cut, with how much there is of each kind."""

    kept: dict[str, tuple[list[Wanted], int, float]]
    dropped: dict[tuple[str, str], tuple[list[Wanted], int, float]]
    pairs: tuple[tuple[Wanted, Wanted], ...]

    def wanted(self) -> list[Wanted]:
        """All of these."""
        groups = [*self.kept.values(), *self.dropped.values()]
        return [
            *itertools.chain.from_iterable(group for group, _, _ in groups),
            *itertools.chain.from_iterable(self.pairs),
        ]


def draw(run: str, dataset: Dataset | None, size: int, seed: int) -> Drawn:
    """Chooses up to `size` kept clips of each corpus, and as many dropped ones of each stage and reason.

    Raises:
        TwistError: a table is damaged.
    """
    kept: dict[str, tuple[list[Wanted], int, float]] = {}
    if dataset:
        for corpus, rows in draw_rows(dataset.rows(dataset.schema.names), "corpus", size, seed).items():
            totals = [total for total in dataset.info["totals"] if total["corpus"] == corpus]
            wanted = [Wanted(row["segment_id"], "segments", SHARDS, KEPT, row=row) for row in rows]
            kept[corpus] = (
                wanted,
                sum(total["num_samples"] for total in totals),
                sum(total["hours"] for total in totals),
            )
    dropped: dict[tuple[str, str], tuple[list[Wanted], int, float]] = {}
    pairs: list[tuple[Wanted, Wanted]] = []
    for row in STAGES:
        if not stage.is_finished(run, row.name):
            continue
        tallies = stage.read_facts(run, row.name)["counts"]["dropped"]
        rows_of = draw_rows(parquet.iterate(storage.join(run, row.name, stage.DROPPED)), "reason", size, seed)
        for reason, rows in rows_of.items():
            wanted = [Wanted(one["id"], row.counts, row.name, reason, one["detail"]) for one in rows]
            if row.name == SHARDS and reason in DUPLICATES:
                twins = [TWIN.fullmatch(one.detail) for one in wanted]
                pairs += [(one, _twin(match[1])) for one, match in zip(wanted, twins, strict=True) if match]
                continue
            tally = tallies.get(reason, {"items": 0, "hours": 0.0})
            dropped[row.name, reason] = (wanted, tally["items"], tally["hours"])
    return Drawn(kept, dropped, tuple(pairs))


def listen(drawn: Drawn, cutter: Cutter) -> tuple[ListeningFigures, tuple[Pair, ...]]:
    """Cuts all clips: the first of each group, then the second of each, so that all get their share of the audio."""
    groups = [*drawn.kept.values(), *drawn.dropped.values()]
    cut: dict[int, Clip] = {}
    for turn in itertools.zip_longest(*(group for group, _, _ in groups)):
        for wanted in turn:
            if wanted is not None:
                cut[id(wanted)] = cutter.cut(wanted)
    pairs = tuple(Pair(cutter.cut(gone), cutter.cut(stays)) for gone, stays in drawn.pairs)
    kept = tuple(
        Group(SHARDS, corpus, count, hours, tuple(cut[id(one)] for one in wanted))
        for corpus, (wanted, count, hours) in drawn.kept.items()
    )
    dropped = tuple(
        Group(name, reason, count, hours, tuple(cut[id(one)] for one in wanted))
        for (name, reason), (wanted, count, hours) in drawn.dropped.items()
    )
    return ListeningFigures(kept, dropped), pairs


def _twin(segment_id: str) -> Wanted:
    return Wanted(segment_id, "segments", SHARDS, KEPT)


def recordings_of(wanted: Sequence[Wanted]) -> set[str]:
    """The ids of the recordings that clips are cut from."""
    return {one.id.rpartition("#")[0] if one.counts == "segments" else one.id for one in wanted}
