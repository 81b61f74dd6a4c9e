"""What the clips of a report are to be cut from: draws from what was kept and from what was dropped."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipeline import stage
from pipeline.files import parquet, storage
from pipeline.report.draw_rows import draw_rows
from pipeline.runs import SHARDS, STAGES, TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from pipeline.shards import Dataset

KEPT = "kept"
# In details of duplicates (packing/reasons.py): the segment that stayed.
TWIN = re.compile(r"same (?:units|speech) as (.*?)(?:, similarity .*)?")
DUPLICATES = ("duplicate", "near_duplicate")


@dataclass(frozen=True)
class Wanted:
    """What a clip is to be cut from: a segment or a recording, and what became of it where.

    `row` is what the shards' manifest says of what was kept. `is_interleaved`: to be shown as training on speech and
    text in turn divides it.
    """

    id: str
    counts: str
    stage: str
    fate: str
    detail: str = ""
    row: dict[str, Any] | None = None
    is_interleaved: bool = False


@dataclass(frozen=True)
class Stratum:
    """What was drawn of one kind: kept of one corpus, or dropped by one stage for one reason.

    Attributes:
        stage: The stage.
        title: The corpus, or the reason.
        counts: What `num_items` counts.
        num_items, hours: How much there is of this kind.
        wanted: What was drawn of it.
    """

    stage: str
    title: str
    counts: str
    num_items: int
    hours: float
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True)
class Drawn:
    """What is to be cut; of duplicates, which was dropped and which stays; and samples that carry words, by corpus."""

    kept: tuple[Stratum, ...]
    dropped: tuple[Stratum, ...]
    pairs: tuple[tuple[Wanted, Wanted], ...]
    interleaved: tuple[Stratum, ...] = ()

    def wanted(self) -> list[Wanted]:
        """All of these."""
        of_strata = (stratum.wanted for stratum in (*self.kept, *self.dropped, *self.interleaved))
        return list(itertools.chain.from_iterable((*of_strata, *self.pairs)))


def draw(run: str, dataset: Dataset | None, size: int, seed: int) -> Drawn:
    """Chooses up to `size` kept samples of each corpus, as many drops of each stage and reason, whole items first.

    Raises:
        TwistError: a table is damaged.
    """
    dropped: list[Stratum] = []
    pairs: list[tuple[Wanted, Wanted]] = []
    for row in STAGES:
        if row.name == TEXT or not stage.is_finished(run, row.name):
            continue
        tallies = stage.read_facts(run, row.name)["counts"]["dropped"]
        drops = parquet.iterate(storage.join(run, row.name, stage.DROPPED))
        for reason, rows in draw_rows(drops, "reason", size, seed, "num_items").items():
            wanted = tuple(Wanted(one["id"], row.counts, row.name, reason, one["detail"]) for one in rows)
            if row.name == SHARDS and reason in DUPLICATES:
                twins = [TWIN.fullmatch(one.detail) for one in wanted]
                pairs += [(one, _twin(match[1])) for one, match in zip(wanted, twins, strict=True) if match]
            else:
                tally = tallies.get(reason, {"items": 0, "hours": 0.0})
                dropped.append(Stratum(row.name, reason, row.counts, tally["items"], tally["hours"], wanted))
    kept = tuple(_kept(dataset, size, seed)) if dataset else ()
    interleaved = tuple(_with_words(dataset, size, seed)) if dataset and dataset.has_words else ()
    return Drawn(kept, tuple(dropped), tuple(pairs), interleaved)


def _kept(dataset: Dataset, size: int, seed: int) -> Iterator[Stratum]:
    return _strata(dataset.rows(dataset.schema.names), dataset.info["totals"], size, seed)


def _with_words(dataset: Dataset, size: int, seed: int) -> Iterator[Stratum]:
    """Samples of two words or more, which can be part text and part speech."""
    tables = dataset.rows(dataset.schema.names)
    aligned = (table.filter(pc.greater_equal(table["num_words"], 2)) for table in tables)
    return _strata(aligned, dataset.info["text"]["totals"], size, seed, is_interleaved=True)


def _strata(
    tables: Iterable[pa.Table], totals: Sequence[dict[str, Any]], size: int, seed: int, *, is_interleaved: bool = False
) -> Iterator[Stratum]:
    """Samples of the shards by corpus, of which `totals` tell how much there is."""
    for corpus, rows in draw_rows(tables, "corpus", size, seed).items():
        of_corpus = [total for total in totals if total["corpus"] == corpus]
        yield Stratum(
            SHARDS,
            corpus,
            "samples",
            sum(total["num_samples"] for total in of_corpus),
            sum(total["hours"] for total in of_corpus),
            tuple(
                Wanted(row["segment_id"], "segments", SHARDS, KEPT, row=row, is_interleaved=is_interleaved)
                for row in rows
            ),
        )


def _twin(segment_id: str) -> Wanted:
    return Wanted(segment_id, "segments", SHARDS, KEPT)


def recordings_of(wanted: Sequence[Wanted]) -> set[str]:
    """The ids of the recordings that clips are cut from."""
    return {one.id.rpartition("#")[0] if one.counts == "segments" else one.id for one in wanted}
