from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa

from pipeline.files import parquet, partitioned
from pipeline.packing.config import DegenerateConfig, DuplicatesConfig
from pipeline.packing.facts import FACTS_SCHEMA, Facts, Survey
from pipeline.records import UNITS_SCHEMA
from pipeline.units.parts import Batch

CONTENTS = [
    ([1, 2, 1], [3, 1, 7]),
    ([1, 2], [3, 1]),
    ([1, 2], [1, 3]),
    ([3, 1], [1, 2]),
    ([1, 2, 3, 1], [1, 1, 1, 1]),
    ([256], [1]),
    ([1], [256]),
    ([65535], [1]),
]


def part(path: str, contents: list[tuple[list[int], list[int]] | None]) -> str:
    rows = []
    for number, content in enumerate(contents):
        units, durations = content or (None, None)
        rows.append(
            {
                "segment_id": f"{path}#{number}", "recording_id": path, "start_s": 1.0 * number, "end_s": number + 1.0,
                "num_frames": sum(durations or []), "units": units, "durations": durations,
                "drop_reason": None if content else "silent", "drop_detail": None,
            }
        )  # fmt: skip
    parquet.write(path, pa.Table.from_pylist(rows, schema=UNITS_SCHEMA))
    return path


def test_facts_tell_apart_what_differs_and_pass_over_what_has_no_units(tmp_path) -> None:
    off = DegenerateConfig(max_unit_share=None, min_entropy_bits=None, min_units_per_s=None)
    survey = Survey(str(tmp_path / "work"), off, DuplicatesConfig(landmark_units=2), None, num_partitions=2)
    parts = (part(str(tmp_path / "a"), [*CONTENTS[:4], None]), part(str(tmp_path / "b"), [None, *CONTENTS]))
    survey(Batch(3, parts))
    (facts,) = partitioned.gather([survey.facts_uri(3)], 0)
    assert facts is not None
    assert facts.schema.equals(FACTS_SCHEMA)
    contents = [*CONTENTS[:4], *CONTENTS]
    assert facts["num_units"].to_pylist() == [len(units) for units, _ in contents]
    assert facts["num_frames"].to_pylist() == [sum(durations) for _, durations in contents]
    hashes = facts["content"].to_pylist()
    for (one, mine), (other, theirs) in itertools.combinations(zip(contents, hashes, strict=True), 2):
        assert (one == other) == (mine == theirs), f"{one} and {other}"


def test_a_batch_is_surveyed_once(tmp_path) -> None:
    survey = Survey(
        str(tmp_path / "work"), DegenerateConfig(), DuplicatesConfig(landmark_units=2), None, num_partitions=1
    )
    generator = np.random.default_rng(0)
    units = generator.permutation(100).tolist()
    path = part(str(tmp_path / "a"), [(units, [1] * 100)])
    survey(Batch(0, (path,)))
    before = (tmp_path / "work/facts-000000.scatter").stat().st_mtime_ns
    survey(Batch(0, (path,)))
    assert (tmp_path / "work/facts-000000.scatter").stat().st_mtime_ns == before


def test_a_recording_is_one_across_row_groups(tmp_path) -> None:
    recordings = ["a", "a", "a", "a", "b", "c", "c"]
    numbers = np.arange(len(recordings), dtype=np.int32)
    columns = {
        field.name: pa.array(recordings if field.name == "recording_id" else numbers).cast(field.type)
        for field in FACTS_SCHEMA
        if field.name in ("recording_id", "batch", "row", "num_units", "num_frames")
    }
    columns["batch"] = pa.array(np.zeros(len(recordings), np.int32))
    table = pa.table(columns)
    (tmp_path / "facts.parquet").write_bytes(parquet.to_bytes(table, row_group_size=2))
    facts = Facts.read((str(tmp_path / "facts.parquet"),), 1)
    assert facts.recording.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert facts.recording_ids.to_pylist() == ["a", "b", "c"]
