"""Continuations of spoken prompts by a speech LM, drawn once and kept: an interruption costs those under way.

    <folder>/continuations/<key>/part-*.parquet    a row a continuation: item_id (the prompt's), number, units

The key is a hash of the model, the prompts' units and how units are drawn.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.kept_parts import parts_made_here
from pipeline.files import storage
from pipeline.speaking.units import Units
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from model.lm.sampling_config import SamplingConfig
    from pipeline.evaluation.item_units import ItemUnits
    from pipeline.evaluation.subject import Subject

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("units", pa.list_(pa.uint16()), nullable=False),
    ]
)
# Prompts whose continuations are drawn, and kept, together.
PROMPTS_AT_ONCE = 32


@dataclass(frozen=True)
class Continuation:
    """What a model says after a prompt: units without repeats, [p] of the prompt and [n] of the model.

    `name` is unique: the prompt's, and the number of the continuation where there are several.
    """

    name: str
    item_id: str
    prompt: NDArray[np.uint16]
    units: NDArray[np.uint16]


def continuations_of(
    subject: Subject, prompts: ItemUnits, sampling: SamplingConfig, num_continuations: int
) -> tuple[list[Continuation], str, list[LeftOut]]:
    """Continuations of each prompt, a fingerprint of them all, and the prompts that leave no room for one.

    Raises:
        TwistError: the model cannot be loaded, speaks other units, or has too few positions.
    """
    usable = {
        item_id: Units(row.units, row.durations, subject.frame_rate_hz)
        for item_id, row in prompts.of.items()
        if sampling.max_length(len(row.units)) > len(row.units)
    }
    left_out = [
        LeftOut(item_id, "too_long", f"a prompt of {len(row.units)} units leaves no room in {sampling.max_units}")
        for item_id, row in prompts.of.items()
        if item_id not in usable
    ]
    fingerprint = digest(
        subject.model_fingerprint,
        prompts.fingerprint,
        json.dumps(asdict(sampling), sort_keys=True),
        str(num_continuations),
        subject.dtype,
    )
    ids = list(usable)

    def draw(some: slice) -> pa.Table:
        return _drawn(subject, {item_id: usable[item_id] for item_id in ids[some]}, sampling, num_continuations)

    folder = storage.join(subject.output, "continuations", fingerprint[:16])
    parts = parts_made_here(folder, len(ids), PROMPTS_AT_ONCE, draw, subject.report, "continued prompts")
    continuations = []
    for row in (row for part in parts for row in part.to_pylist()):
        item_id = row["item_id"]
        name = item_id if num_continuations == 1 else f"{item_id}-{row['number']}"
        continuations.append(Continuation(name, item_id, usable[item_id].values, np.asarray(row["units"], np.uint16)))
    return continuations, fingerprint, left_out


def _drawn(
    subject: Subject, prompts: Mapping[str, Units], sampling: SamplingConfig, num_continuations: int
) -> pa.Table:
    drawn = subject.lm.continue_batch(list(prompts.values()), sampling, num_continuations)
    rows = [
        {"item_id": item_id, "number": number, "units": more.values}
        for item_id, continuations in zip(prompts, drawn, strict=True)
        for number, more in enumerate(continuations)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)
