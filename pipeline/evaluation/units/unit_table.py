"""What the units of each file add to bitrate, perplexity, purities and PNMI; and these figures, as ratios of sums.

Frequencies (of units, of phones with a unit) are those of all files.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.units.alignments import labels_at
from pipeline.evaluation.units.bitrate import surprise_bits
from pipeline.evaluation.units.purity import agreement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.item_units import UnitRow
    from pipeline.evaluation.units.alignments import Interval
    from pipeline.evaluation.units.purity import Agreement
    from pipeline.evaluation.units.spoken_files import SpokenFile

BITRATES = (
    Measure("bitrate, a symbol each frame", "frame_bits", "seconds"),
    Measure("bitrate, units without repeats", "unit_bits", "seconds"),
    Measure("bitrate, units and durations", "unit_and_duration_bits", "seconds"),
    Measure("unit perplexity", "frame_nats", "frames", exponential=True),
    Measure("frames per unit", "frames", "units"),
)
AGREEMENT_WITH_PHONES = (
    Measure("PNMI", "phone_information_nats", "phone_surprise_nats"),
    Measure("phone purity", "phone_right", "phone_frames"),
    Measure("cluster purity", "phone_cluster_right", "phone_frames"),
    Measure("frames with a phone", "phone_frames", "frames"),
)


def unit_table(
    units: Mapping[str, UnitRow],
    files: Mapping[str, SpokenFile],
    phones: Mapping[str, Sequence[Interval]],
    frame_rate_hz: float,
) -> tuple[pa.Table, list[Measure]]:
    """A row a file, and the figures that can be told: those of phones first, if any file has an alignment.

    Args:
        units: By file; of one file at least.
        files: Who speaks in each.
        phones: Alignments, of some of the files or of none; each labels a frame.
        frame_rate_hz: Of the units.
    """
    frames = {name: row.frames for name, row in units.items()}
    table, measures = _bits(units, files), list(BITRATES)
    if phones:
        labels = {name: phones_of_frames(units[name], of_file, frame_rate_hz) for name, of_file in phones.items()}
        table = _with_agreement(table, frames, labels, "phone")
        measures = [*AGREEMENT_WITH_PHONES, *measures]
    for what in ("speaker", "gender"):
        known = {name: label for name in frames if (label := getattr(files[name], what)) is not None}
        if len(set(known.values())) > 1:
            table = _with_agreement(
                table, frames, {name: [label] * len(frames[name]) for name, label in known.items()}, what
            )
            measures.append(Measure(f"{what} purity", f"{what}_right", f"{what}_frames"))
    return table, measures


def phones_of_frames(row: UnitRow, intervals: Sequence[Interval], frame_rate_hz: float) -> list[str | None]:
    """The phone in the middle of each frame of a file, [F]; None where none is said."""
    return labels_at((np.arange(len(row.frames)) + 0.5) / frame_rate_hz, intervals)


def _bits(units: Mapping[str, UnitRow], files: Mapping[str, SpokenFile]) -> pa.Table:
    rows = list(units.values())
    frame_bits = surprise_bits([row.frames for row in rows])
    unit_bits = surprise_bits([row.units for row in rows])
    duration_bits = surprise_bits([row.durations for row in rows])
    return pa.table(
        {
            "item_id": list(units),
            GROUP: [files[name].speaker or name for name in units],
            "seconds": [row.duration_s for row in rows],
            "frames": [len(row.frames) for row in rows],
            "units": [len(row.units) for row in rows],
            "frame_bits": frame_bits,
            "frame_nats": frame_bits * math.log(2),
            "unit_bits": unit_bits,
            "unit_and_duration_bits": unit_bits + duration_bits,
        }
    )


def _with_agreement(
    table: pa.Table,
    frames: Mapping[str, NDArray[np.integer]],
    labels: Mapping[str, Sequence[str | None]],
    what: str,
) -> pa.Table:
    """The table with each file's sums over the frames that have a label."""
    row_of = {name: row for row, name in enumerate(frames)}
    rows = np.concatenate([np.full(len(of_file), row_of[name]) for name, of_file in labels.items()])
    units = np.concatenate([frames[name] for name in labels])
    all_labels = np.array([label or "" for of_file in labels.values() for label in of_file])
    has_label = np.array([label is not None for of_file in labels.values() for label in of_file])
    rows, units, all_labels = rows[has_label], units[has_label], all_labels[has_label]
    values, counts = np.unique(all_labels, return_counts=True)
    sums = {
        "frames": np.ones(len(rows)),
        "commonest": all_labels == values[counts.argmax()],
        **_of_frames(agreement(units, all_labels)),
    }
    for name, of_frame in sums.items():
        table = table.append_column(f"{what}_{name}", pa.array(np.bincount(rows, of_frame, len(frames))))
    return table


def _of_frames(agrees: Agreement) -> dict[str, NDArray[np.generic]]:
    return {
        "right": agrees.label_is_likeliest,
        "cluster_right": agrees.unit_is_likeliest,
        "information_nats": agrees.information_nats,
        "surprise_nats": agrees.surprise_nats,
    }
