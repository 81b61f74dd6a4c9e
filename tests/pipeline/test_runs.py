"""The table of stages: rows are consistent, and their commands exist."""

from __future__ import annotations

import importlib

import pytest

from pipeline.runs import STAGE_NAMES, STAGES, StageRow, is_part_file, part_file, parts_uri, stage_of


def test_names_and_commands_are_told_apart() -> None:
    assert len(set(STAGE_NAMES)) == len({stage.command for stage in STAGES}) == len(STAGES)
    assert [stage_of(name) for name in STAGE_NAMES] == list(STAGES)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_comes_after_its_source(stage: StageRow) -> None:
    before = STAGE_NAMES[: STAGE_NAMES.index(stage.name)]
    assert stage.source is None or stage.source in before, "a run would do them in the wrong order"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_has_a_command(stage: StageRow) -> None:
    job = importlib.import_module(f"jobs.{stage.command.replace('-', '_')}")
    assert callable(job.work) and callable(job.main), "`twist run` calls the one, `twist COMMAND` the other"


def test_parts_lie_in_their_stage() -> None:
    assert parts_uri("s3://bucket/run", "segments") == "s3://bucket/run/segments/speech"
    assert parts_uri("/runs/one", "units") == "/runs/one/units", "units are parts of the folder itself"


def test_only_parts_are_taken_for_parts() -> None:
    assert is_part_file(part_file("corpus-0000001"))
    assert not any(map(is_part_file, ("dropped.parquet", "part-1.json", ".part-1.parquet.tmp")))
