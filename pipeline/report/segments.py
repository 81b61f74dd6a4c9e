"""The page of segments: how long they are, and how much of each recording is speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from pipeline import stage
from pipeline.report.chart import Chart, histogram
from pipeline.runs import SEGMENTS
from pipeline.segments.segment import open_segments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.report.recordings import Recordings

STEP_S = 0.01
NUM_LENGTH_BARS = 30
NUM_SHARE_BARS = 20


@dataclass(frozen=True)
class SegmentsOfCorpus:
    """The segments of one corpus; quantiles of their lengths."""

    name: str
    num_segments: int
    hours: float
    p10_s: float
    median_s: float
    p90_s: float
    speech_share: float


@dataclass(frozen=True)
class SegmentFigures:
    """All segments."""

    num_segments: int
    hours: float
    config: dict[str, Any]
    corpora: tuple[SegmentsOfCorpus, ...]
    charts: tuple[Chart, ...]

    @property
    def hours_by_corpus(self) -> dict[str, float]:
        """Hours of speech."""
        return {corpus.name: corpus.hours for corpus in self.corpora}


def read_segments(run: str, recordings: Recordings) -> SegmentFigures:
    """Reads the figures of a finished stage, a row group at a time; lengths are counted in steps of STEP_S."""
    config = stage.read_facts(run, SEGMENTS)["config"]
    num_steps = int(np.ceil(config["max_s"] * 1.1 / STEP_S)) + 1
    counts = np.zeros((len(recordings.corpora), num_steps), np.int64)
    speech_s = np.zeros(len(recordings.hashes))
    seconds = np.zeros(len(recordings.corpora))
    with open_segments(run) as groups:
        for table in groups:
            places, length_s = _places(table, recordings), _lengths(table)
            is_known = places >= 0
            places, length_s = places[is_known], length_s[is_known]
            corpus = recordings.corpus[places]
            steps = (length_s / STEP_S).astype(np.int64).clip(max=num_steps - 1)
            np.add.at(counts, (corpus, steps), 1)
            speech_s += np.bincount(places, length_s, len(speech_s))
            seconds += np.bincount(corpus, length_s, len(seconds))
    stated_s = np.bincount(recordings.corpus, recordings.durations_s, len(recordings.corpora))
    corpora = tuple(
        SegmentsOfCorpus(name, int(of_it.sum()), spoken_s / 3600, *_quantiles(of_it), spoken_s / max(of_all_s, 1e-9))
        for name, of_it, spoken_s, of_all_s in zip(
            recordings.corpora, counts, seconds.tolist(), stated_s.tolist(), strict=True
        )
        if of_it.any()
    )
    return SegmentFigures(
        int(counts.sum()),
        float(seconds.sum()) / 3600,
        config,
        tuple(sorted(corpora, key=lambda one: -one.hours)),
        (_length_chart(counts, recordings.corpora, config["max_s"]), _share_chart(speech_s, recordings)),
    )


def _places(table: pa.Table, recordings: Recordings) -> NDArray[np.int64]:
    """Of the recording of each row; neighbours are mostly of one, which is looked up once."""
    coded = table["recording_id"].combine_chunks().dictionary_encode()
    return recordings.find(coded.dictionary)[coded.indices.to_numpy()] if len(table) else np.empty(0, np.int64)


def _lengths(table: pa.Table) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
    return lengths


def _quantiles(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    ends = counts.cumsum()
    p10, median, p90 = (np.searchsorted(ends, np.array([0.1, 0.5, 0.9]) * ends[-1]) * STEP_S).tolist()
    return p10, median, p90


def _length_chart(counts: NDArray[np.int64], corpora: Sequence[str], max_s: float) -> Chart:
    bar_s = max(0.5, float(np.ceil(2 * max_s / NUM_LENGTH_BARS) / 2))
    starts = np.arange(0, counts.shape[1], round(bar_s / STEP_S))
    bars = np.add.reduceat(counts, starts, axis=1)
    labels = [f"{start * STEP_S:g}–{start * STEP_S + bar_s:g}" for start in starts]
    return histogram(
        "How long segments are",
        "seconds",
        "segments",
        labels,
        dict(zip(corpora, bars, strict=True)),
    )


def _share_chart(speech_s: NDArray[np.float64], recordings: Recordings) -> Chart:
    shares = np.minimum(speech_s / np.maximum(recordings.durations_s, 1e-9), 1.0)
    edges = np.linspace(0, 1, NUM_SHARE_BARS + 1)
    step = 100 // NUM_SHARE_BARS
    return histogram(
        "How much of each recording is speech",
        "percent of the recording",
        "recordings",
        [f"{number * step}–{(number + 1) * step}" for number in range(NUM_SHARE_BARS)],
        {name: np.histogram(shares[recordings.corpus == i], edges)[0] for i, name in enumerate(recordings.corpora)},
    )
