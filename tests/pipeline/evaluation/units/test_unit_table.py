"""Figures of units: as ratios of sums over files they are those of all frames at once."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.item_units import UnitRow
from pipeline.evaluation.measures import figure
from pipeline.evaluation.units.alignments import Interval
from pipeline.evaluation.units.bitrate import bitrate, perplexity
from pipeline.evaluation.units.purity import agreement
from pipeline.evaluation.units.spoken_files import SpokenFile
from pipeline.evaluation.units.unit_table import unit_table
from pipeline.units.encode import run_lengths

RATE_HZ = 25


def figures(units, files, phones):
    table, measures = unit_table(units, files, phones, RATE_HZ)
    return {measure.name: figure(table, measure, level=0.95, seed=0) for measure in measures}


def row_of(frames):
    return UnitRow(*run_lengths(np.array(frames, np.uint16)), len(frames) / RATE_HZ)


def intervals_like(labels):
    """A phone a frame."""
    return [Interval(label, place / RATE_HZ, (place + 1) / RATE_HZ) for place, label in enumerate(labels)]


def test_figures_are_those_of_all_frames():
    generator = np.random.default_rng(0)
    frames = {f"{who}/{take}": generator.integers(8, size=40 + take) for who in "abc" for take in range(4)}
    phones = {name: ["xyz"[(unit + generator.integers(2)) % 3] for unit in units] for name, units in frames.items()}
    units = {name: row_of(of_file) for name, of_file in frames.items()}
    files = {name: SpokenFile(name, "", name[0], "f" if name[0] == "a" else "m") for name in frames}
    told = figures(units, files, {name: intervals_like(labels) for name, labels in phones.items()})
    together = np.concatenate(list(frames.values()))
    of_phones = agreement(together, np.concatenate(list(phones.values())))
    of_speakers = agreement(together, np.repeat([name[0] for name in frames], [len(one) for one in frames.values()]))
    rows, seconds = list(units.values()), len(together) / RATE_HZ
    durations = bitrate([row.durations for row in rows], seconds)
    expected = {
        "PNMI": of_phones.normalized_information,
        "phone purity": of_phones.purity,
        "cluster purity": of_phones.cluster_purity,
        "frames with a phone": 1.0,
        "bitrate, a symbol each frame": bitrate(list(frames.values()), seconds),
        "bitrate, units without repeats": bitrate([row.units for row in rows], seconds),
        "bitrate, units and durations": bitrate([row.units for row in rows], seconds) + durations,
        "unit perplexity": perplexity(list(frames.values())),
        "frames per unit": len(together) / sum(len(row.units) for row in rows),
        "speaker purity": of_speakers.purity,
        "gender purity": told["gender purity"].value,
    }
    assert {name: one.value for name, one in told.items()} == pytest.approx(expected)
    assert told["gender purity"].value >= 2 / 3
    assert told["PNMI"].num_groups == 3, "speakers are drawn"
    assert told["PNMI"].low < told["PNMI"].value < told["PNMI"].high


def test_the_printed_example():
    files = {"f": SpokenFile("f", "", None, None)}
    told = figures({"f": row_of([1, 1, 2, 2, 1, 3])}, files, {"f": intervals_like("aabbbc")})
    assert told["PNMI"].value == pytest.approx(0.6853315, abs=1e-7)
    assert told["phone purity"].value == told["cluster purity"].value == pytest.approx(5 / 6)
    assert told["frames per unit"].value == pytest.approx(6 / 4)
    of_phones = figures({"f": row_of([0, 0, 1, 1, 1, 2])}, files, {})
    assert of_phones["frames per unit"].value == 2.0
    assert "speaker purity" not in of_phones


def test_frames_without_a_phone_count_for_bits_alone():
    whole = row_of([1, 1, 2, 2])
    files = {name: SpokenFile(name, "", None, None) for name in ("half", "none")}
    told = figures({"half": whole, "none": whole}, files, {"half": intervals_like("ab")})
    assert told["frames with a phone"].value == pytest.approx(2 / 8)
    assert told["phone purity"].value == pytest.approx(1 / 2), "both units 1"
    assert told["bitrate, a symbol each frame"].value == pytest.approx(1.0 * RATE_HZ)
