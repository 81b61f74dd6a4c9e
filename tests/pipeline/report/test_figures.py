"""The figures of the pages: they add up, and are those that `twist inspect` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from model.training.metrics import METRICS
from pipeline.errors import TwistError
from pipeline.inspection.describe import describe_run
from pipeline.report.chart import MOST_POINTS, MOST_SERIES, histogram, hours_chart, line
from pipeline.report.config import ReportConfig
from pipeline.report.corpora import read_corpora
from pipeline.report.overview import read_overview
from pipeline.report.packing import read_packing
from pipeline.report.recordings import Recordings
from pipeline.report.segments import STEP_S, read_segments
from pipeline.report.training import read_training
from pipeline.report.units import read_units, unit_colours
from pipeline.shards import open_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def told(small_run: Path) -> dict[str, dict[str, object]]:
    """What `twist inspect` says of the stages of a run."""
    return describe_run(str(small_run))["stages"]


def test_kept_and_dropped_are_all_that_came_in(small_run):
    run = str(small_run)
    recordings = Recordings.of(run)
    overview = read_overview(run, recordings, read_segments(run, recordings), open_dataset(f"{run}/shards"), 0)
    assert [one.name for one in overview.stages] == ["manifest", "language", "segments", "units", "shards"]
    for one in overview.stages:
        assert one.kept_hours + sum(drop.hours for drop in one.dropped) == pytest.approx(one.input_hours), one.name
        assert one.kept_items + sum(drop.num_items for drop in one.dropped) == one.input_items, one.name
    shards = overview.stages[-1]
    assert sum(corpus.in_shards for corpus in overview.corpora) == pytest.approx(shards.kept_hours, abs=1e-4)
    language = overview.stages[1]
    assert sum(corpus.after_language for corpus in overview.corpora) == pytest.approx(language.kept_hours, rel=1e-5)
    assert sum(one.after_language for one in overview.languages) == pytest.approx(language.kept_hours, rel=1e-5)


def test_corpora_and_segments_are_those_of_inspect(small_run, told):
    run = str(small_run)
    segments = read_segments(run, Recordings.of(run))
    corpora = read_corpora(run, segments)
    assert {one.name: one.num_recordings for one in corpora.corpora} == {
        name: corpus["recordings"] for name, corpus in told["manifest"]["corpora"].items()
    }
    assert sum(one.num_speakers for one in corpora.corpora) == told["manifest"]["num_speakers"]
    assert segments.num_segments == told["segments"]["num_segments"]
    assert sum(one.num_segments for one in segments.corpora) == segments.num_segments
    (only,) = segments.corpora
    assert only.median_s == pytest.approx(told["segments"]["segments_s"]["median"], abs=2 * STEP_S)


def test_units_and_splits_are_those_of_inspect(small_run, told):
    run = str(small_run)
    dataset = open_dataset(f"{run}/shards")
    units = read_units(run, dataset, seed=0)
    assert units.num_units == told["shards"]["num_units"]
    assert units.entropy_bits == told["shards"]["unit_entropy_bits"]
    packing = read_packing(run, dataset, ())
    assert packing.num_torn == 0, "a speaker is in two splits"
    assert sum(split.num_samples for split in packing.splits) == told["shards"]["num_samples"]
    assert sum(split.num_speakers for split in packing.splits) == told["shards"]["num_speakers"]
    assert sum(drop.num_items for drop in packing.dropped) == sum(
        tally["items"] for tally in told["shards"]["counts"]["dropped"].values()
    )


def test_every_unit_has_a_colour_and_near_ones_similar_ones():
    around = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    centroids = np.stack([3 * np.cos(around), 2 * np.sin(around), np.zeros(36)], axis=1)
    colours = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in unit_colours(centroids)]
    steps = np.abs(np.diff(np.array([*colours, colours[0]]), axis=0)).sum(axis=1)
    opposite = np.abs(np.array(colours) - np.roll(colours, 18, axis=0)).sum(axis=1)
    assert steps.mean() < opposite.mean() / 2


def test_several_runs_are_drawn_one_over_the_other(tmp_path):
    for name, best in (("first", 9.0), ("second", 7.0)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        corpora = '{"a": {"perplexity": 8.0}, "b": {"perplexity": 6.0}}'
        lines = [
            f'{{"step": {step}, "loss": {10 - step / 100}, "tokens": {step}, "lr": 0.1}}' for step in range(1, 1001)
        ]
        lines.append(f'{{"step": 1000, "validation": {{"mean": {{"perplexity": {best}}}, "corpora": {corpora}}}}}')
        (tmp_path / name / "checkpoints" / METRICS).write_text("\n".join(lines) + "\n")
    runs = [str(tmp_path / name) for name in ("first", "second", "never")]
    figures = read_training(["first", "second", "never"], runs)
    assert [one.name for one in figures.runs] == ["first", "second"]
    assert [one.best_perplexity for one in figures.runs] == [9.0, 7.0]
    perplexity, loss = figures.charts[:2]
    assert len(perplexity.series) == 6, "a mean and two corpora of each run"
    assert [series.name for series in loss.series] == ["first", "second"]
    assert all(len(series.values) <= MOST_POINTS for series in loss.series)
    assert read_training(["never"], runs[2:]) is None


def test_a_line_keeps_its_ends():
    thinned = line("a", range(10_000), range(10_000))
    assert len(thinned.values) == MOST_POINTS
    assert (thinned.places[0], thinned.places[-1]) == (0, 9999)


def test_a_histogram_counts_all_and_shows_few_names():
    counts = {f"corpus {number}": np.array([0, number, 1, 0]) for number in range(20)}
    chart = histogram("title", "x", "y", ["0", "1", "2", "3"], counts)
    assert chart.labels == ("1", "2"), "empty bins at the ends are shown"
    assert len(chart.series) == MOST_SERIES
    assert np.sum([series.values for series in chart.series]) == sum(values.sum() for values in counts.values())
    assert histogram("title", "x", "y", ["0"], {"nothing": np.zeros(1, int)}).is_empty


def test_hours_are_shown_in_minutes_where_they_are_short():
    assert hours_chart("title", ["a"], {"kept": [0.5], "dropped": [0.25]}).series[0].values == (30.0,)
    assert hours_chart("title", ["a"], {"kept": [0.5], "dropped": [0.75]}).series[0].values == (0.5,)


@pytest.mark.parametrize(
    "setting",
    [
        {"clips": -1},
        {"clips": 101},
        {"max_audio_mb": -1.0},
        {"max_audio_mb": float("nan")},
        {"max_clip_s": 0.5},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(TwistError, match=next(iter(setting))):
        ReportConfig(**setting)
