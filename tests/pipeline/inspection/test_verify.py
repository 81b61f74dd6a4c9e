"""Breaks a run in one way at a time; each must be reported in a sentence that names the file or stage."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.files import parquet, storage
from pipeline.inspection.verify import verify_folder, verify_run, verify_stage
from pipeline.records import UNITS_SCHEMA
from pipeline.runs import STAGES
from pipeline.stage import StageError
from pipeline.units import codebook

if TYPE_CHECKING:
    from collections.abc import Callable

    Break = Callable[[Path], Any]

# The others have tests of their own.
ALWAYS_RUN = [stage.name for stage in STAGES if stage.section is None]

PART = "units/part-sounds-0000002.parquet"


def violations(run: Path) -> list[str]:
    return list(verify_run(str(run)))


def edit_rows(name: str, edit: Callable[[list[dict[str, Any]]], Any]) -> Break:
    """Breaks rows of a Parquet file, which stays a valid file."""

    def change(run: Path) -> None:
        table = parquet.read(str(run / name))
        rows = table.to_pylist()
        edit(rows)
        parquet.write(str(run / name), pa.Table.from_pylist(rows, schema=table.schema))

    return change


def edit_row(name: str, **values: Any) -> Break:
    """Breaks the first row of a Parquet file."""
    return edit_rows(name, lambda rows: rows[0].update(values))


def edit_segment(edit: Callable[[dict[str, Any]], Any]) -> Break:
    """Breaks the first segment of a part."""
    return edit_rows(PART, lambda rows: edit(rows[0]))


def edit_counts(name: str, *path: str, value: float) -> Break:
    """Breaks the counts of a stage.json."""

    def change(run: Path) -> None:
        uri = run / name / "stage.json"
        facts = json.loads(uri.read_text())
        place = facts["counts"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        uri.write_text(json.dumps(facts))

    return change


def write(name: str, content: bytes) -> Break:
    return lambda run: (run / name).write_bytes(content)


def cut_short(name: str) -> Break:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-40])


def flip_a_byte(name: str, place: int) -> Break:
    def change(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[place] ^= 2
        (run / name).write_bytes(content)

    return change


def of_another_codebook(run: Path) -> None:
    table = parquet.read(str(run / PART))
    parquet.write(str(run / PART), table.replace_schema_metadata({"codebook": "other", "encoder": "other"}))


def overlapping(rows: list[dict[str, Any]]) -> None:
    rows[1]["start_s"] = rows[0]["end_s"] - 1.0


def beyond_the_end(rows: list[dict[str, Any]]) -> None:
    last = max((row for row in rows if "nobody" in row["recording_id"]), key=lambda row: row["end_s"])
    last["end_s"] += 0.5


def redone_with_other_settings(run: Path) -> None:
    shutil.rmtree(run / "codebook")
    book = codebook.save(str(run / "codebook"), np.eye(5, dtype=np.float32), {"encoder": {"fingerprint": "other"}})
    assert book.codebook_size == 5
    facts = {"inputs": {}, "fingerprint": "x", "counts": {"input": {"items": 0, "hours": 0.0}}}
    facts["counts"] |= {"kept": {"items": 0, "hours": 0.0}, "dropped": {}}
    (run / "codebook/stage.json").write_text(json.dumps(facts))
    parquet.write(str(run / "codebook/dropped.parquet"), parquet.read(str(run / "shards/dropped.parquet")).slice(0, 0))
    (run / "codebook/DONE").write_text("other")


def not_finite(run: Path) -> None:
    book = codebook.load(str(run / "codebook"))
    centroids = book.centroids.copy()
    centroids[3, 4] = np.nan
    facts = {
        name: value for name, value in book.facts.items() if name not in ("fingerprint", "num_units", "feature_dim")
    }
    codebook.save(str(run / "codebook"), centroids, facts)


BREAKS: dict[str, tuple[Break, str]] = {
    # manifest
    "a recording twice": (
        edit_rows("manifest/sounds.parquet", lambda r: r.append(r[0])),
        "manifest: 1 recording ids occur",
    ),
    "an endless recording": (
        edit_row("manifest/sounds.parquet", duration_s=float("inf")),
        r"manifest: sounds/a/1.wav is inf",
    ),
    "a recording changed": (
        edit_row("manifest/sounds.parquet", speaker="x"),
        "manifest holds other data than when it was",
    ),
    "a recording gone": (
        edit_rows("manifest/sounds.parquet", lambda r: r.pop()),
        "language: 1 items are there twice, or unex",
    ),
    "manifest cut short": (cut_short("manifest/sounds.parquet"), r"sounds.parquet is not a whole Parquet file"),
    "manifest's DONE gone": (
        lambda run: (run / "manifest/DONE").unlink(),
        "language was made from manifest, which is not fin",
    ),
    "manifest's DONE damaged": (write("manifest/DONE", b"\xff\x00"), "language was made from another manifest"),
    # language
    "a decision without reason": (
        edit_row("language/decisions.parquet", keep=False),
        "decisions.parquet: .*a/1.wav is dropped",
    ),
    "a decision changed": (
        edit_row("language/decisions.parquet", score=0.5),
        "language holds other data than when it was",
    ),
    "a decision gone": (
        edit_rows("language/decisions.parquet", lambda r: r.pop(0)),
        "language: 1 items are neither kept nor",
    ),
    "decisions gone": (lambda run: (run / "language/decisions.parquet").unlink(), "decisions.parquet is missing"),
    "decisions of other columns": (
        lambda run: shutil.copy(run / PART, run / "language/decisions.parquet"),
        "decisions.parquet",
    ),
    # segments
    "overlapping segments": (
        edit_rows("segments/segments.parquet", overlapping),
        "segments.parquet: .* overlaps the segment",
    ),
    "segments out of order": (
        edit_rows("segments/segments.parquet", lambda r: r.insert(0, r.pop(1))),
        "segments.parquet: .* overlaps the segment before it, or is out of order",
    ),
    "a recording's segments apart": (
        edit_rows("segments/segments.parquet", lambda r: r.append(r.pop(0))),
        "segments: 1 items are there twice, or unexpected",
    ),
    "a segment past the end": (
        edit_rows("segments/segments.parquet", beyond_the_end),
        "segments.parquet: .*not within its",
    ),
    "a segment before the start": (
        edit_row("segments/segments.parquet", start_s=-1.0),
        "segments.parquet: .*not within its",
    ),
    "a segment too short": (edit_row("segments/segments.parquet", end_s=1.0), r"segments.parquet: .* is 1.0 s long"),
    "a segment of nothing": (
        edit_row("segments/segments.parquet", recording_id="x"),
        "segments.parquet: .*not within its",
    ),
    "a segment gone": (
        edit_rows("segments/segments.parquet", lambda r: r.pop(0)),
        "units: 1 items are there twice, or unexpec",
    ),
    "a segment changed": (
        edit_row("segments/segments.parquet", uri="elsewhere"),
        "segments holds other data than when it was",
    ),
    # codebook
    "centroids changed": (
        flip_a_byte("codebook/codebook.safetensors", -9),
        "codebook.safetensors is not the file that",
    ),
    "centroids gone": (lambda run: (run / "codebook/codebook.safetensors").unlink(), "codebook holds no codebook"),
    "centroids not finite": (not_finite, "codebook.safetensors holds values that are not finite"),
    "codebook redone": (redone_with_other_settings, "units was made from another codebook than the one beside it"),
    "codebook redone, shards": (redone_with_other_settings, "dataset.json names another codebook"),
    # units
    "equal neighbours": (
        edit_segment(lambda r: r["units"].__setitem__(1, r["units"][0])),
        f"{PART}: .*neighbouring units are",
    ),
    "durations that do not add up": (
        edit_segment(lambda r: r.update(num_frames=3)),
        f"{PART}: .*durations from 1 add up to",
    ),
    "a duration of zero": (
        edit_segment(lambda r: r["durations"].__setitem__(0, 0)),
        f"{PART}: .*durations from 0 add up",
    ),
    "fewer durations": (edit_segment(lambda r: r["durations"].pop()), f"{PART}: .*units and .*durations"),
    "no units": (edit_segment(lambda r: r.update(units=[], durations=[])), f"{PART}: .*has 0 units and 0 durations"),
    "neither units nor reason": (
        edit_segment(lambda r: r.update(units=None, durations=None)),
        f"{PART}: .*has 0 units",
    ),
    "a unit out of range": (
        edit_segment(lambda r: r["units"].__setitem__(0, 20)),
        f"{PART}: .*unit 20 is outside the codebook",
    ),
    "another unit": (
        edit_segment(lambda r: r["durations"].reverse()),
        "units holds other data than when it was finished",
    ),
    "a part of another codebook": (of_another_codebook, f"{PART} was made with another codebook"),
    "a part gone": (lambda run: (run / PART).unlink(), "units: [0-9]+ items are neither kept nor dropped"),
    "a part twice": (lambda run: shutil.copy(run / PART, run / "units/part-999999.parquet"), "units: .*there twice"),
    "a part cut short": (cut_short(PART), f"{PART} is not a whole Parquet file"),
    "a byte of a part": (flip_a_byte(PART, 100), f"{PART} is not a whole Parquet file"),
    "a segment dropped in silence": (
        edit_segment(lambda r: r.update(drop_reason="x")),
        "units: 1 items are neither kept nor",
    ),
    # shards
    "a byte of a shard": (
        flip_a_byte("shards/train/train-000000.tar", 3000),
        "train-000000.tar does not have the checksum",
    ),
    "a sample left out": (
        edit_rows("shards/manifest.parquet", lambda r: r.pop()),
        "shards: 1 items are neither kept nor dropped",
    ),
    "a drop left out": (
        edit_rows("shards/dropped.parquet", lambda r: r.clear()),
        "shards: 1 items are neither kept nor dropped",
    ),
    "a drop unknown": (
        edit_row("shards/dropped.parquet", id="x"),
        "shards: 1 items are there twice, or unexpected, e.g. x",
    ),
    "dataset.json gone": (lambda run: (run / "shards/dataset.json").unlink(), "dataset.json is missing"),
    # what every stage has
    "another reason": (
        edit_row("shards/dropped.parquet", reason="x"),
        "shards/stage.json: 0 items .* dropped as x, but dropped.",
    ),
    "other hours dropped": (
        edit_row("language/dropped.parquet", duration_s=1.0),
        "language/stage.json: 1 items .*other_language",
    ),
    "items dropped": (
        edit_row("units/dropped.parquet", num_items=0),
        "units/stage.json: 2 items .* missing, .*names 1",
    ),
    "dropped.parquet gone": (lambda run: (run / "units/dropped.parquet").unlink(), "units/dropped.parquet is missing"),
    "dropped.parquet cut short": (
        cut_short("codebook/dropped.parquet"),
        "codebook/dropped.parquet is not a whole Parquet",
    ),
    "kept items": (
        edit_counts("units", "kept", "items", value=3),
        "units/stage.json: kept and dropped items add up to 5",
    ),
    "kept hours": (
        edit_counts("shards", "kept", "hours", value=3.0),
        "shards/stage.json: kept and dropped hours add up to 3.0",
    ),
    "input of another stage": (
        edit_counts("language", "kept", "items", value=15),
        "segments/stage.json: 16 items went in, but",
    ),
    "no counts": (
        lambda run: (run / "units/stage.json").write_text('{"inputs": {}}'),
        "units/stage.json is damaged",
    ),
    "stage.json cut short": (cut_short("segments/stage.json"), "segments/stage.json is damaged"),
    "stage.json of something else": (write("segments/stage.json", b"[]"), "segments/stage.json is damaged"),
    "stage.json gone": (lambda run: (run / "language/stage.json").unlink(), "language/stage.json is missing"),
}


def test_an_untouched_run_has_no_violation(small_run: Path) -> None:
    assert violations(small_run) == []


@pytest.mark.parametrize("name", BREAKS)
def test_one_thing_broken_is_found_and_its_file_named(run_copy: Path, name: str) -> None:
    damage, expected = BREAKS[name]
    damage(run_copy)
    found = violations(run_copy)
    assert any(re.search(expected, violation) for violation in found), f"not found: {found}"
    assert all(str(run_copy) in violation for violation in found), f"a violation that does not say where: {found}"


def test_every_file_may_be_missing_cut_short_or_rubbish(run_copy: Path, small_run: Path) -> None:
    files = [path.relative_to(small_run) for path in small_run.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) > 30
    for number, name in enumerate(files):
        if "frames" in name.parts:  # the frames that the codebook was fitted to are not needed any more
            continue
        content = (small_run / name).read_bytes()
        rubbish = (content[: len(content) // 2], b"\x00\xff" * 50, b"")[number % 3]
        for damage in (None, rubbish):
            (run_copy / name).unlink()
            if damage is not None:
                (run_copy / name).write_bytes(damage)
            if damage is None and name == Path("shards/DONE"):
                assert violations(run_copy) == [], "the last stage is then merely unfinished"
            else:
                assert violations(run_copy), (
                    f"{name} was {'deleted' if damage is None else 'damaged'}, and nobody noticed"
                )
            (run_copy / name).write_bytes(content)
    assert violations(run_copy) == []


def test_without_checksums_the_tables_of_a_run_are_still_verified(run_copy: Path) -> None:
    for path in (*run_copy.glob("units/part-*.parquet"), *run_copy.rglob("*.tar")):
        path.write_bytes(bytes(path.stat().st_size))
    assert list(verify_run(str(run_copy), checksums=False)) == [], "parts or tars were read"
    for name in ("an endless recording", "a decision without reason", "a segment past the end", "kept items"):
        damage, expected = BREAKS[name]
        damage(run_copy)
        found = list(verify_run(str(run_copy), checksums=False))
        assert any(re.search(expected, violation) for violation in found), f"{name} was not found: {found}"


def test_an_unfinished_run_is_verified_as_far_as_it_went(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "shards")
    (run_copy / "units/DONE").unlink()
    (run_copy / PART).unlink()
    assert violations(run_copy) == []
    with pytest.raises(StageError, match="units is not finished"):
        list(verify_stage(str(run_copy), "units"))


def test_an_empty_run_has_nothing_to_verify(tmp_path: Path) -> None:
    assert violations(tmp_path) == []


@pytest.mark.parametrize("name", ALWAYS_RUN)
def test_a_stage_can_be_verified_alone(small_run: Path, name: str) -> None:
    assert list(verify_folder(str(small_run / name), name)) == []


def test_codebooks_and_shards_are_verified_outside_of_a_run(small_run: Path, tmp_path: Path) -> None:
    for kind in ("codebook", "shards"):
        folder = Path(shutil.copytree(small_run / kind, tmp_path / f"copied {kind}"))
        assert list(verify_folder(str(folder), kind)) == []
        (folder / "stage.json").unlink()
        assert list(verify_folder(str(folder), kind)) == []
    content = bytearray((tmp_path / "copied codebook/codebook.safetensors").read_bytes())
    (tmp_path / "copied codebook/codebook.safetensors").write_bytes(content[:-8])
    assert len(list(verify_folder(str(tmp_path / "copied codebook"), "codebook"))) == 1


def test_a_run_on_s3_is_verified_too(small_run: Path, s3_folder: str) -> None:
    run = storage.join(s3_folder, "run")
    for name in storage.list_files(str(small_run)):
        storage.write_bytes(storage.join(run, name), (small_run / name).read_bytes())
    assert list(verify_run(run)) == []
    storage.delete(storage.join(run, "shards/train/train-000000.tar"))
    assert list(verify_run(run)) == [f"{run}/shards/train/train-000000.tar is missing"]


def test_the_schema_of_parts_survives_these_tests(run_copy: Path) -> None:
    edit_rows(PART, lambda _: None)(run_copy)
    assert parquet.read(str(run_copy / PART)).schema.equals(UNITS_SCHEMA)
    (only,) = violations(run_copy)
    assert "its sha256 is another one" in only, "the rows are as they were, the file is another"
