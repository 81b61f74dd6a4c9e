"""The first look at all units: compact facts of every segment, by which all that concerns the whole is decided.

A batch is some of the part files of a run's units, in their order; what is written of it is in the order of its
segments.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.files import parquet, partitioned, storage
from pipeline.packing.config import DegenerateConfig, DuplicatesConfig
from pipeline.packing.decontaminate import EvaluationIndex, contaminated
from pipeline.packing.degenerate import degenerate
from pipeline.packing.duplicates import LANDMARK_SCHEMA
from pipeline.packing.landmarks import landmark_pairs
from pipeline.units.parts import Batch, Flat, read_kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

# `content` is a hash of units and durations; `reason` and `detail` say why a segment goes by itself.
FACTS_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.large_string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("num_units", pa.int32(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("content", pa.binary(16), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class Survey:
    """What is asked of each segment.

    Attributes:
        folder: Where to write.
        degenerate: Which units are no speech.
        duplicates: Whether near duplicates are looked for, and how thoroughly.
        evaluation: The evaluation speech's index, a file; None where there is none.
        num_partitions: Into how many the landmarks are dealt out.
    """

    folder: str
    degenerate: DegenerateConfig
    duplicates: DuplicatesConfig
    evaluation: str | None
    num_partitions: int

    def facts_uri(self, batch: int) -> str:
        """A batch's facts."""
        return storage.join(self.folder, f"facts-{batch:06d}.parquet")

    def landmarks_uri(self, batch: int) -> str:
        """A batch's landmarks."""
        return storage.join(self.folder, f"landmarks-{batch:06d}.scatter")

    def __call__(self, batch: Batch) -> None:
        """Surveys one batch, unless that was done before."""
        if storage.exists(self.facts_uri(batch.number)):
            return
        evaluation = EvaluationIndex.load(self.evaluation) if self.evaluation else None
        facts, landmarks = [FACTS_SCHEMA.empty_table()], [LANDMARK_SCHEMA.empty_table()]
        num_rows = 0
        for table in read_kept(batch):
            facts.append(self._facts(table, evaluation))
            if self.duplicates.drop == "near":
                landmarks.append(self._landmarks(table, num_rows))
            num_rows += len(table)
        if self.duplicates.drop == "near":
            joined = pa.concat_tables(landmarks)
            partitions = (joined["key"].to_numpy() % np.uint64(self.num_partitions)).astype(np.uint32)
            partitioned.write(self.landmarks_uri(batch.number), joined, partitions, self.num_partitions)
        parquet.write(self.facts_uri(batch.number), pa.concat_tables(facts))

    def _facts(self, table: pa.Table, evaluation: EvaluationIndex | None) -> pa.Table:
        flat = Flat.of(table)
        durations_s = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
        reasons: list[str | None] = [None] * len(table)
        details: list[str | None] = [None] * len(table)
        if evaluation is not None:
            for row, detail in contaminated(flat.owners, flat.units, flat.durations, evaluation).items():
                reasons[row], details[row] = "evaluation", detail
        for row, detail in degenerate(flat.owners, flat.units, flat.durations, durations_s, self.degenerate).items():
            reasons[row], details[row] = "degenerate", detail
        columns = {
            **{name: table[name] for name in ("segment_id", "recording_id", "start_s", "end_s", "num_frames")},
            "num_units": pc.list_value_length(table["units"]),
            "content": [_content(*flat.segment(row)) for row in range(len(table))],
            "reason": reasons,
            "detail": details,
        }
        return pa.table(
            [
                pa.chunked_array([pa.array(columns[field.name], field.type)])
                if isinstance(columns[field.name], list)
                else columns[field.name].cast(field.type)
                for field in FACTS_SCHEMA
            ],
            schema=FACTS_SCHEMA,
        )

    def _landmarks(self, table: pa.Table, first_row: int) -> pa.Table:
        flat = Flat.of(table)
        settings = self.duplicates
        assert settings.landmark_units is not None
        found = landmark_pairs(
            flat.owners, flat.units, flat.durations, settings.landmark_units, settings.pairs_per_landmark
        )
        order = np.argsort(found.owners, kind="stable")
        order = order[found.frames[order] < 2**16]  # the first 43 minutes of a segment
        rows = (found.owners[order] + first_row).astype(np.uint32)
        columns = [found.keys[order], rows, found.frames[order].astype(np.uint16)]
        return pa.table(columns, schema=LANDMARK_SCHEMA)


def _content(units: NDArray[np.uint16], durations: NDArray[np.uint16]) -> bytes:
    return hashlib.blake2b(units.tobytes() + durations.tobytes(), digest_size=16).digest()
