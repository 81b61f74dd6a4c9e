"""Scaling a sample to a corpus, and the range that it leaves open."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from pipeline.estimate.measure import IN_SEGMENTS, Measured, measure
from pipeline.estimate.project import Machine, project, ratio_of_sums
from pipeline.estimate.sample import Part
from pipeline.estimate.text import as_text


def part(hours: float, *, pace: float = 1.0) -> Measured:
    """Ten minutes of a core an hour of audio to decode, thirty to encode, and 0.9 hours kept."""
    return Measured(
        hours,
        {"units": 600 * hours * pace, "shards": hours},
        {"units": 1800 * hours * pace},
        {IN_SEGMENTS: 0.95 * hours, "hours in shards": 0.9 * hours, "units": 60_000 * hours},
        {"manifest": 1.0, "units": 1e6 * hours},
    )


def estimate(parts: list[Measured], num_gpus: float = 0.0, codebook_hours: float = 0.0):
    machine = Machine(4, num_gpus)
    return project(parts, machine, corpus_hours=1000.0, codebook_hours=codebook_hours, manifest_bytes=5e9)


def test_parts_that_agree_leave_no_range() -> None:
    found = estimate([part(0.2), part(0.3), part(0.25)])
    for told, value in [
        (found.amounts["hours in shards"], 900),
        (found.amounts["units"], 60e6),
        (found.core_hours["tokenize"], 1000 * 2400 / 3600),
        (found.wall_hours, 1000 * 2401 / 3600 / 4),
        (found.stored_gb["units"], 1.0),
        (found.stored_gb["manifest"], 5.0),
    ]:
        assert (told.value, told.low, told.high) == pytest.approx((value,) * 3)
    assert found.gpu_hours == {}


def test_a_gpu_takes_over_what_actors_do_beside_decoding() -> None:
    found = estimate([part(0.2), part(0.3)], num_gpus=2)
    assert found.core_hours["tokenize"].value == pytest.approx(1000 / 6)
    assert found.gpu_hours["tokenize"].value == pytest.approx(500)
    assert found.wall_hours.value == pytest.approx(250 + 1000 / 3600 / 4)  # 2 GPUs; 4 cores decode in 42 hours


def test_fitting_a_codebook_encodes_once_more() -> None:
    without, within = estimate([part(0.2), part(0.3)]), estimate([part(0.2), part(0.3)], codebook_hours=95)
    assert within.core_hours["codebook"].value == pytest.approx(0.1 * without.core_hours["tokenize"].value)
    assert within.wall_hours.value > without.wall_hours.value
    small = estimate([part(0.2), part(0.3)], codebook_hours=1e6)
    assert small.core_hours["codebook"].value == pytest.approx(small.core_hours["tokenize"].value)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        hours = generator.uniform(0.1, 0.4, 5)
        told = ratio_of_sums((3 * hours * generator.normal(1, 0.2, 5)).tolist(), hours.tolist())
        hits += told.low <= 3 <= told.high
    assert 0.91 < hits / 1000 < 0.98


def test_one_part_gives_no_range() -> None:
    found = estimate([part(0.2)])
    assert found.wall_hours.value > 0 and math.isnan(found.wall_hours.low) and math.isnan(found.wall_hours.high)
    assert "unknown: one part" in as_text(found, days=2.0, price_per_hour=None)


def test_more_machines_for_fewer_days() -> None:
    found = estimate([part(0.2, pace=0.5), part(0.3, pace=2.0), part(0.2)])
    week, day = found.machines_for(7), found.machines_for(1)
    assert day.value == math.ceil(found.wall_hours.value / 24)
    assert 1 <= week.low <= week.value <= week.high <= day.high
    text = as_text(found, days=1.0, price_per_hour=10.0)
    price = next(line for line in text.splitlines() if line.split()[:1] == ["price"])
    assert float(price.split()[1].replace(",", "")) == pytest.approx(found.wall_hours.value * 10, rel=0.005)


def test_what_never_has_a_gpu_is_counted_in_cores(small_run, tmp_path):
    run = str(shutil.copytree(small_run, tmp_path / "run"))
    for name in ("units", "pitch"):
        folder = tmp_path / "run" / name
        folder.mkdir(exist_ok=True)
        facts = json.loads((small_run / "units" / "stage.json").read_text())
        facts["work"] = {"worker_seconds": {"decode": 1.0, "encode": 5.0, "commit": 0.5}}
        (folder / "stage.json").write_text(json.dumps(facts))
        (folder / "DONE").write_text("done")
    found = measure(Part(run, 1.0, 10))
    assert (found.decode_s["units"], found.process_s["units"]) == (1.0, 5.5)
    assert (found.decode_s["pitch"], "pitch" in found.process_s) == (6.5, False)
    assert found.stored_bytes["pitch"] > 0
