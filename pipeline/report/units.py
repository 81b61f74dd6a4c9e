"""The page of units: how often each occurs, how long they last, and where they lie in the codebook."""

from __future__ import annotations

import colorsys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from pipeline.files import storage
from pipeline.inspection.describe_shards import count_units
from pipeline.inspection.figures import unit_statistics
from pipeline.records import SPLITS
from pipeline.report.chart import Chart, Series, histogram
from pipeline.runs import CODEBOOK
from pipeline.units import codebook
from pipeline.units.parts import part_uris, read_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.shards import Dataset

# Part files of which run lengths are counted; a chunk is half an hour of speech.
MOST_PARTS = 64
# Frames; longer runs are counted with the longest.
LONGEST_RUN = 12


@dataclass(frozen=True)
class UnitsOfCorpus:
    """Units an hour of a corpus, before and after equal neighbours become one."""

    name: str
    hours: float
    num_units: int
    units_per_hour_before: float
    units_per_hour: float


@dataclass(frozen=True)
class UnitFigures:
    """The units of a run's shards. Run lengths are those of `num_parts_read` parts of `num_parts`."""

    encoder: str
    frame_rate_hz: float
    codebook_size: int
    num_units: int
    num_unused: int
    entropy_bits: float
    perplexity: float
    mean_run_frames: float | None
    num_parts_read: int
    num_parts: int
    corpora: tuple[UnitsOfCorpus, ...]
    charts: tuple[Chart, ...]
    code_map: Chart


def read_units(run: str, dataset: Dataset, seed: int) -> UnitFigures:
    """Reads how often units occur from dataset.json, and run lengths from a seeded draw of parts.

    Raises:
        TwistError: a part is damaged, or the codebook is.
    """
    counts = count_units(dataset, SPLITS)
    told = unit_statistics(counts)
    parts = part_uris(run)
    drawn = np.random.default_rng(seed).permutation(len(parts))[:MOST_PARTS]
    runs = _run_lengths([parts[number] for number in sorted(drawn)])
    frames = np.arange(1, LONGEST_RUN + 1)
    centroids = codebook.load(storage.join(run, CODEBOOK)).centroids
    return UnitFigures(
        dataset.info["encoder"]["name"],
        dataset.info["frame_rate_hz"],
        dataset.codebook_size,
        int(counts.sum()),
        told["unused_units"],
        told["unit_entropy_bits"],
        told["unit_perplexity"],
        float((runs * frames).sum() / runs.sum()) if runs.any() else None,
        len(drawn),
        len(parts),
        _by_corpus(dataset),
        (_zipf(counts), _runs_chart(runs, dataset.info["frame_rate_hz"]), _by_number(counts)),
        _map(centroids, counts),
    )


def unit_colours(centroids: NDArray[np.floating]) -> list[str]:
    """A colour a unit [units], as #rrggbb: units that are near each other in the codebook have similar ones."""
    x, y = _plane(centroids)
    hues = np.arctan2(y, x) / (2 * np.pi) % 1
    # By rank, so that one far unit does not make all others alike.
    rank = np.argsort(np.argsort(np.hypot(x, y))) / max(1, len(x) - 1)
    return [
        _hex(hue, 0.68 - 0.26 * far, 0.30 + 0.45 * far) for hue, far in zip(hues.tolist(), rank.tolist(), strict=True)
    ]


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))


def _plane(centroids: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two principal components of the centroids, [units] each."""
    centred = centroids.astype(np.float64) - centroids.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    if len(sizes) < 2:
        return centred[:, 0], np.zeros(len(centred))
    return left[:, 0] * sizes[0], left[:, 1] * sizes[1]


def _run_lengths(parts: Sequence[str]) -> NDArray[np.int64]:
    """How many units last 1, 2, ... frames [LONGEST_RUN]."""
    runs = np.zeros(LONGEST_RUN + 1, np.int64)
    for uri in parts:
        durations = pc.list_flatten(read_part(uri)["durations"]).to_numpy()
        runs += np.bincount(np.minimum(durations, LONGEST_RUN), minlength=LONGEST_RUN + 1)
    return runs[1:]


def _by_corpus(dataset: Dataset) -> tuple[UnitsOfCorpus, ...]:
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for total in dataset.info["totals"]:
        for place, name in enumerate(("hours", "num_units", "num_frames")):
            sums[total["corpus"]][place] += total[name]
    found = [
        UnitsOfCorpus(name, hours, int(units), frames / hours, units / hours)
        for name, (hours, units, frames) in sums.items()
        if hours
    ]
    return tuple(sorted(found, key=lambda one: -one.hours))


def _zipf(counts: NDArray[np.int64]) -> Chart:
    shares = np.sort(counts[counts > 0])[::-1] / max(1, counts.sum())
    ranks = np.arange(1, len(shares) + 1)
    places = tuple(ranks.tolist())
    equal = np.full(len(ranks), 100 / max(1, len(counts)))
    lines = (
        Series("units of this run", tuple((100 * shares).tolist()), places),
        Series("if all were as frequent", tuple(equal.tolist()), places),
    )
    return Chart("How often units occur, the most frequent first", "lines", "rank", "percent of all units", lines)


def _by_number(counts: NDArray[np.int64]) -> Chart:
    shares = 100 * counts / max(1, counts.sum())
    series = Series("share", tuple(shares.tolist()))
    labels = tuple(map(str, range(len(counts))))
    return Chart("How often each unit occurs", "bars", "unit", "percent of all units", (series,), labels)


def _runs_chart(runs: NDArray[np.int64], frame_rate_hz: float) -> Chart:
    shares = 100 * runs / max(1, runs.sum())
    labels = [f"{frames * 1000 / frame_rate_hz:.0f}" for frames in range(1, LONGEST_RUN + 1)]
    labels[-1] += "+"
    return histogram("How long a unit lasts", "milliseconds", "percent of all units", labels, {"share": shares})


def _map(centroids: NDArray[np.floating], counts: NDArray[np.int64]) -> Chart:
    x, y = _plane(centroids)
    shares = 100 * counts / max(1, counts.sum())
    texts = tuple(f"unit {unit}: {share:.2f} % of all" for unit, share in enumerate(shares.tolist()))
    series = Series("unit", tuple(y.tolist()), tuple(x.tolist()), tuple(unit_colours(centroids)), texts)
    return Chart("The codebook in two dimensions", "points", "first component", "second component", (series,))
