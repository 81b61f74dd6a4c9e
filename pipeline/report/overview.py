"""The first page: what went in, what became of it at each stage, and what came out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from pipeline import stage
from pipeline.files import parquet, storage
from pipeline.language.filter import DECISIONS
from pipeline.report.chart import hours_chart
from pipeline.runs import CODEBOOK, LANGUAGE, STAGES, stage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.report.chart import Chart
    from pipeline.report.recordings import Recordings
    from pipeline.report.segments import SegmentFigures
    from pipeline.shards import Dataset

KEPT = "kept"
MOST_REASONS = 10
MOST_LANGUAGES = 30


@dataclass(frozen=True)
class Drop:
    """What one stage left out for one reason."""

    reason: str
    num_items: int
    hours: float


@dataclass(frozen=True)
class StageFlow:
    """What a stage got, kept and dropped; `counts` names its items. `is_finished` False: nothing is known yet.

    `num_tokens` is what a stage of documents, which have no hours, has written.
    """

    name: str
    command: str
    counts: str
    is_finished: bool
    input_items: int = 0
    input_hours: float = 0.0
    kept_items: int = 0
    kept_hours: float = 0.0
    dropped: tuple[Drop, ...] = ()
    wall_time_s: float = 0.0
    num_tokens: int | None = None

    @property
    def kept_share(self) -> float:
        """Of the hours that came in; of documents, of their number."""
        if self.num_tokens is not None:
            return self.kept_items / self.input_items if self.input_items else 0.0
        return self.kept_hours / self.input_hours if self.input_hours else 0.0


@dataclass(frozen=True)
class HoursThrough:
    """Hours of a corpus or a language after each step; None where the step has not been done."""

    name: str
    in_manifest: float
    after_language: float | None
    in_segments: float | None
    in_shards: float | None


@dataclass(frozen=True)
class OverviewFigures:
    """The flow of a run; `chart` is the same as bars."""

    stages: tuple[StageFlow, ...]
    chart: Chart
    corpora: tuple[HoursThrough, ...]
    languages: tuple[HoursThrough, ...]
    num_speakers: int
    num_units: int | None
    units_per_hour: float | None
    codebook_size: int | None


def read_overview(
    run: str, recordings: Recordings, segments: SegmentFigures | None, dataset: Dataset | None, num_speakers: int
) -> OverviewFigures:
    """Reads the flow of a run whose manifest is finished."""
    stages = tuple(_flow(run, row.name) for row in STAGES if row.name != CODEBOOK and _was_begun(run, row.name))
    kept_of_corpus, of_language = _decided(run, recordings)
    totals = dataset.info["totals"] if dataset else ()
    packed: defaultdict[str, float] = defaultdict(float)
    for total in totals:
        packed[total["corpus"]] += total["hours"]
    of_manifest = np.bincount(recordings.corpus, recordings.durations_s, len(recordings.corpora)) / 3600
    corpora = [
        HoursThrough(
            name,
            float(of_manifest[number]),
            None if kept_of_corpus is None else float(kept_of_corpus[number]),
            segments.hours_by_corpus.get(name, 0.0) if segments else None,
            packed[name] if dataset else None,
        )
        for number, name in enumerate(recordings.corpora)
    ]
    packed_languages = dataset.info["languages"] if dataset else {}
    languages = [
        HoursThrough(name, hours, kept, None, packed_languages.get(name, {}).get("hours", 0.0) if dataset else None)
        for name, (hours, kept) in of_language.items()
    ]
    num_units = sum(total["num_units"] for total in totals)
    hours = sum(packed.values())
    return OverviewFigures(
        stages,
        _chart(stages),
        tuple(sorted(corpora, key=lambda one: -one.in_manifest)),
        tuple(sorted(languages, key=lambda one: -one.in_manifest)[:MOST_LANGUAGES]),
        num_speakers,
        num_units if dataset else None,
        num_units / hours if hours else None,
        dataset.codebook_size if dataset else None,
    )


def _was_begun(run: str, name: str) -> bool:
    return storage.exists(storage.join(run, name, stage.STAGE_JSON))


def _flow(run: str, name: str) -> StageFlow:
    row = stage_of(name)
    if not stage.is_finished(run, name):
        return StageFlow(name, row.command, row.counts, is_finished=False)
    facts = stage.read_facts(run, name)
    counts = facts["counts"]
    drops = [Drop(reason, tally["items"], tally["hours"]) for reason, tally in counts["dropped"].items()]
    return StageFlow(
        name,
        row.command,
        row.counts,
        True,
        counts["input"]["items"],
        counts["input"]["hours"],
        counts["kept"]["items"],
        counts["kept"]["hours"],
        tuple(sorted(drops, key=lambda drop: (-drop.hours, -drop.num_items, drop.reason))),
        facts.get("wall_time_s", 0.0),
        facts["num_tokens"] if row.counts == "documents" else None,
    )


def _decided(run: str, recordings: Recordings) -> tuple[NDArray[np.float64] | None, Mapping[str, tuple[float, float]]]:
    """Kept hours by corpus [corpora], and by language the hours that came in and those that stay."""
    if not stage.is_finished(run, LANGUAGE):
        return None, {}
    kept_s = np.zeros(len(recordings.corpora))
    languages: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for table in parquet.iterate(storage.join(run, LANGUAGE, DECISIONS), ["recording_id", "language", "keep"]):
        places = recordings.find(table["recording_id"])
        seconds = np.where(places >= 0, recordings.durations_s[places], 0.0)
        is_kept = table["keep"].to_numpy()
        kept_s += np.bincount(recordings.corpus[places], seconds * is_kept, len(kept_s))
        coded = pc.fill_null(table["language"], "unknown").combine_chunks().dictionary_encode()
        numbers, names = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        for which, weights in enumerate((seconds, seconds * is_kept)):
            for name, sum_s in zip(names, np.bincount(numbers, weights, len(names)).tolist(), strict=True):
                languages[name][which] += sum_s / 3600
    return kept_s / 3600, {name: (hours[0], hours[1]) for name, hours in languages.items()}


def _chart(stages: Sequence[StageFlow]) -> Chart:
    """A bar a stage: hours that stay, and behind them what was dropped by reason, the most first."""
    done = [one for one in stages if one.is_finished and one.num_tokens is None]
    hours: defaultdict[str, float] = defaultdict(float)
    for one in done:
        for drop in one.dropped:
            hours[drop.reason] += drop.hours
    reasons = sorted((reason for reason in hours if hours[reason]), key=lambda reason: -hours[reason])
    named, rest = reasons[:MOST_REASONS], set(reasons[MOST_REASONS:])

    def of(one: StageFlow, names: set[str]) -> float:
        return sum(drop.hours for drop in one.dropped if drop.reason in names)

    hours_of = {KEPT: [one.kept_hours for one in done], **{name: [of(one, {name}) for one in done] for name in named}}
    if rest:
        hours_of["other reasons"] = [of(one, rest) for one in done]
    return hours_chart("Audio through the stages", [one.name for one in done], hours_of)
