"""The page of corpora: how long recordings are, who speaks, in which language, at which rate."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import stage
from pipeline.corpora.manifest import iterate_tables
from pipeline.inspection.accounts import hashes_of
from pipeline.report.chart import Chart, histogram, hours_chart
from pipeline.report.group_sums import GroupSums
from pipeline.runs import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pipeline.report.segments import SegmentFigures

# Seconds, from a word to a session.
LENGTH_EDGES_S = (0, 1, 2, 5, 10, 15, 20, 30, 60, 300, 900, 1800, 3600, np.inf)
LENGTH_LABELS = (
    "< 1 s",
    "1–2 s",
    "2–5 s",
    "5–10 s",
    "10–15 s",
    "15–20 s",
    "20–30 s",
    "30–60 s",
    "1–5 min",
    "5–15 min",
    "15–30 min",
    "30–60 min",
    "> 1 h",
)
SPEAKER_EDGES_H = (0, 1 / 60, 5 / 60, 0.25, 0.5, 1, 2, 5, 10, 25, np.inf)
SPEAKER_LABELS = (
    "< 1 min",
    "1–5 min",
    "5–15 min",
    "15–30 min",
    "30–60 min",
    "1–2 h",
    "2–5 h",
    "5–10 h",
    "10–25 h",
    "> 25 h",
)
MOST_LANGUAGES = 12


@dataclass(frozen=True)
class CorpusFigures:
    """What its manifest says of one corpus, and the share of it that segments hold (None before there are any).

    `kind` is the layout that it was read as; languages are hours by code, the most first.
    """

    name: str
    kind: str
    num_recordings: int
    hours: float
    mean_s: float
    num_speakers: int
    languages: dict[str, float]
    sample_rates: dict[str, int]
    text_share: float
    speech_share: float | None


@dataclass(frozen=True)
class CorporaFigures:
    """All corpora, and charts over them."""

    corpora: tuple[CorpusFigures, ...]
    charts: tuple[Chart, ...]


def read_corpora(run: str, segments: SegmentFigures | None) -> CorporaFigures:
    """Reads the figures of a finished manifest, a row group at a time."""
    languages = GroupSums(["corpus", "language"], ["duration_s"])
    rates = GroupSums(["corpus", "sample_rate_hz"], ["duration_s"])
    texts = GroupSums(["corpus"], ["has_text"])
    lengths: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(LENGTH_LABELS), np.int64))
    speakers = _Speakers()
    for table in iterate_tables(run, ["corpus", "duration_s", "language", "sample_rate_hz", "speaker", "text"]):
        languages.add(table.select(["corpus", "language", "duration_s"]))
        rates.add(table.select(["corpus", "sample_rate_hz", "duration_s"]))
        has_text = pc.cast(pc.is_valid(table["text"]), pa.int64())
        texts.add(table.select(["corpus"]).append_column("has_text", has_text))
        durations_s = table["duration_s"].to_numpy()
        for corpus in pc.unique(table["corpus"]).to_pylist():
            is_of_it = pc.equal(table["corpus"], corpus).to_numpy(zero_copy_only=False)
            lengths[corpus] += np.histogram(durations_s[is_of_it], LENGTH_EDGES_S)[0]
            speakers.add(corpus, table.filter(pa.array(is_of_it)))
    kinds = stage.read_facts(run, MANIFEST).get("kinds", {})
    by_speaker = speakers.hours()
    corpora = []
    for row in texts.rows():
        name, count = row["corpus"], row["count"]
        hours = {
            one["language"] or "not stated": one["duration_s"] / 3600
            for one in languages.rows()
            if one["corpus"] == name
        }
        total_h = sum(hours.values())
        corpora.append(
            CorpusFigures(
                name,
                str(kinds.get(name, "")),
                count,
                total_h,
                total_h * 3600 / count,
                len(by_speaker[name]),
                dict(sorted(hours.items(), key=lambda item: -item[1])[:MOST_LANGUAGES]),
                {
                    _rate(one["sample_rate_hz"]): one["count"]
                    for one in sorted(rates.rows(), key=lambda one: -one["count"])
                    if one["corpus"] == name
                },
                row["has_text"] / count,
                segments.hours_by_corpus.get(name, 0.0) / total_h if segments and total_h else None,
            )
        )
    return CorporaFigures(
        tuple(sorted(corpora, key=lambda corpus: -corpus.hours)),
        (
            histogram("How long recordings are", "length", "recordings", LENGTH_LABELS, lengths),
            _hours("Audio by stated language", "language", languages.rows(), "language"),
            _hours("Audio by sample rate", "sample rate", rates.rows(), "sample_rate_hz"),
            histogram(
                "How much speakers say",
                "audio of a speaker",
                "speakers",
                SPEAKER_LABELS,
                {name: np.histogram(hours, SPEAKER_EDGES_H)[0] for name, hours in by_speaker.items()},
            ),
        ),
    )


class _Speakers:
    """Hours by speaker, who is known by a hash."""

    def __init__(self) -> None:
        self._found: defaultdict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = defaultdict(list)

    def add(self, corpus: str, table: pa.Table) -> None:
        known = table.filter(pc.is_valid(table["speaker"]))
        self._found[corpus].append((hashes_of([known["speaker"]]), known["duration_s"].to_numpy()))

    def hours(self) -> dict[str, NDArray[np.float64]]:
        """By corpus, one value a speaker [speakers]."""
        hours = {}
        for corpus, pieces in self._found.items():
            hashes, seconds = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
            speakers, numbers = np.unique(hashes, return_inverse=True)
            hours[corpus] = np.bincount(numbers, seconds, len(speakers)) / 3600
        return hours


def _hours(title: str, x: str, rows: Iterable[dict[str, object]], column: str) -> Chart:
    """Hours by a column, in all corpora together, the most first."""
    hours: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        value = row[column]
        label = _rate(value) if column == "sample_rate_hz" else str(value or "not stated")
        hours[label] += float(row["duration_s"]) / 3600  # type: ignore[arg-type]
    chosen = sorted(hours.items(), key=lambda item: (-item[1], item[0]))[:MOST_LANGUAGES]
    return hours_chart(title, [label for label, _ in chosen], {"hours": [value for _, value in chosen]}, x)


def _rate(rate_hz: object) -> str:
    return f"{rate_hz / 1000:g} kHz" if isinstance(rate_hz, int) else "not read"
