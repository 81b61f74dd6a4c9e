from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.inspection import describe, describe_shards, figures
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs import STAGES
from pipeline.shards import DatasetError, open_dataset
from pipeline.units.parts import read_parts

if TYPE_CHECKING:
    from collections.abc import Callable

# The others have tests of their own.
ALWAYS_RUN = [stage.name for stage in STAGES if stage.section is None]


def units_of(run: Path) -> list[int]:
    """All units of a run, concatenated."""
    rows = pa.concat_tables(read_parts(str(run))).to_pylist()
    return [unit for row in rows for unit in row["units"] or []]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder that has nothing to do with runs."""
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


@pytest.mark.parametrize("name", ALWAYS_RUN)
def test_the_kind_of_a_stage_is_its_name(small_run: Path, name: str) -> None:
    assert describe.kind_of(str(small_run / name)) == name


def test_the_kind_of_a_run_and_of_one_just_begun(small_run: Path, tmp_path: Path) -> None:
    assert describe.kind_of(str(small_run)) == "run"
    shutil.copytree(small_run / "manifest", tmp_path / "manifest")
    assert describe.kind_of(str(tmp_path)) == "run"


def test_shards_and_codebooks_are_known_anywhere(small_run: Path, tmp_path: Path) -> None:
    for kind in ("shards", "codebook"):
        shutil.copytree(small_run / kind, tmp_path / f"my {kind}", ignore=shutil.ignore_patterns("stage.json"))
        assert describe.kind_of(str(tmp_path / f"my {kind}")) == kind


def test_checkpoints_are_known_by_their_files(foreign: Path) -> None:
    (foreign / "metrics.jsonl").touch()
    assert describe.kind_of(str(foreign)) == "checkpoints"
    (foreign / "config.json").touch()
    assert describe.kind_of(str(foreign)) == "checkpoint"


def test_unfinished_shards_are_shards(run_copy: Path) -> None:
    (run_copy / "shards/dataset.json").unlink()
    assert describe.kind_of(str(run_copy / "shards")) == "shards"


@pytest.mark.parametrize("name", ["", "missing", "missing/checkpoints"])
def test_a_foreign_or_missing_folder_is_nothing_of_ours(foreign: Path, name: str) -> None:
    with pytest.raises(TwistError, match="is no run, and no stage, shards, codebook or checkpoint"):
        describe.kind_of(str(foreign / name))


def test_a_stage_in_a_folder_of_another_name_is_told_so(run_copy: Path) -> None:
    (run_copy / "units").rename(run_copy / "units-old")
    with pytest.raises(TwistError, match="units-old holds the output of stage units; give the folder that name"):
        describe.kind_of(str(run_copy / "units-old"))


def test_a_run_is_described_stage_by_stage(small_run: Path) -> None:
    description = describe.describe_run(str(small_run))
    assert list(description["stages"]) == ALWAYS_RUN
    for name, stage in description["stages"].items():
        facts = json.loads((small_run / name / "stage.json").read_text())
        assert stage["finished"]
        assert (stage["counts"], stage["config"]) == (facts["counts"], facts["config"])
    json.dumps(description, allow_nan=False)


def test_the_manifest_says_what_the_corpora_know(small_run: Path) -> None:
    described = describe.describe_stage(str(small_run), "manifest")
    assert described["corpora"]["sounds"]["recordings"] == 17
    assert described["corpora"]["sounds"]["hours"] == pytest.approx(described["counts"]["kept"]["hours"])
    assert (described["num_speakers"], described["with_speaker"], described["with_language"]) == (7, 16, 17)
    assert described["sample_rates_hz"] == {"8000": 17}
    assert described["recordings_s"]["min"] == 5.0
    assert len(described["examples"]) == 3
    assert [row["id"] for row in described["dropped_examples"]] == ["sounds/broken.wav"]


def test_languages_and_segments_are_counted(small_run: Path) -> None:
    language = describe.describe_stage(str(small_run), "language")
    assert (language["languages"], language["evidence"]) == ({"en": 16, "fr": 1}, {"metadata": 17})
    segments = describe.describe_stage(str(small_run), "segments")
    table = parquet.read(str(small_run / "segments/segments.parquet"))
    durations = np.sort(pc.subtract(table["end_s"], table["start_s"]).to_numpy())
    assert segments["num_segments"] == len(table)
    assert segments["num_work_units"] == len(list(small_run.glob("units/part-*.parquet")))
    assert segments["segments_s"]["median"] == pytest.approx(np.median(durations))
    assert (segments["segments_s"]["min"], segments["segments_s"]["max"]) == pytest.approx(
        (durations[0], durations[-1])
    )


def test_the_statistics_of_units_are_those_of_the_units(small_run: Path) -> None:
    described = describe.describe_stage(str(small_run), "units")
    units = units_of(small_run)
    counts = np.bincount(units, minlength=20)
    assert described["unit_histogram"] == counts.tolist()
    assert described["num_units"] == len(units)
    shares = counts[counts > 0] / len(units)
    assert described["unit_entropy_bits"] == pytest.approx(-sum(shares * np.log2(shares)))
    assert described["unit_perplexity"] == pytest.approx(np.exp(-sum(shares * np.log(shares))))
    assert described["unused_units"] == sum(counts == 0)
    top = described["most_frequent_units"][0]
    assert (counts[top["unit"]], top["share"]) == (counts.max(), pytest.approx(counts.max() / len(units)))
    assert described["examples"][0]["first_units"] == units[:12]


def test_quiet_segments_are_told() -> None:
    assert figures.levels({}) == {}
    told = figures.levels({"-20": 5, "-24": 2, "-36": 2, "-50": 1})
    assert told == {"median_dbfs": -24, "share_below_dbfs": {"-35": 0.3, "-45": 0.1}}


def test_figures_of_shards_are_sums_over_the_shards(small_run: Path) -> None:
    described = describe_shards.describe_shards(str(small_run / "shards"))
    dataset = open_dataset(str(small_run / "shards"))
    for name in ("num_units", "num_frames", "num_samples"):
        assert described[name] == sum(shard[name] for shard in dataset.info["shards"])
        assert described[name] == sum(total[name] for total in described["totals"])
        assert described[name] == sum(total[name] for total in described["languages"].values())
    assert described["hours"] == pytest.approx(sum(total["hours"] for total in described["totals"]), abs=1e-5)
    assert sum(described["unit_histogram"]) == described["num_units"]
    assert described["units_per_hour"] == pytest.approx(described["num_units"] / described["hours"])
    assert described["num_shards"] == len(list(small_run.glob("shards/*/*.tar")))
    stage = describe.describe_folder(str(small_run / "shards"), "shards")
    assert stage.items() >= described.items(), "a run's shards say as much as shards by themselves"
    assert stage["counts"]["dropped"]["duplicate"]["items"] == 1


def test_units_are_counted_per_split(small_run: Path) -> None:
    dataset = open_dataset(str(small_run / "shards"))
    by_split = [describe_shards.count_units(dataset, [split]) for split in ("train", "validation", "test")]
    for split, counts in zip(("train", "validation", "test"), by_split, strict=True):
        wanted = dataset.manifest.filter(pc.equal(dataset.manifest["split"], split))
        assert counts.sum() == pc.sum(wanted["num_units"]).as_py() > 0
    assert np.array_equal(sum(by_split), describe_shards.count_units(dataset, ["train", "validation", "test"]))
    assert describe_shards.count_units(dataset, []).sum() == 0


def test_first_units_of_examples_are_those_of_the_samples(small_run: Path) -> None:
    rows = {row["segment_id"]: row["units"] for row in pa.concat_tables(read_parts(str(small_run))).to_pylist()}
    segment_of = {row["key"]: row["segment_id"] for row in open_dataset(str(small_run / "shards")).manifest.to_pylist()}
    examples = describe_shards.describe_shards(str(small_run / "shards"))["examples"]
    assert len(examples) == 3
    for example in examples:
        assert example["first_units"] == rows[segment_of[example["key"]]][:12]


def test_unfinished_stages_say_how_far_they_are(run_copy: Path) -> None:
    (run_copy / "units/DONE").unlink()
    (run_copy / "units/dropped.parquet").unlink()
    (run_copy / "units/part-sounds-0000000.parquet").unlink()
    shutil.rmtree(run_copy / "shards")
    stages = describe.describe_run(str(run_copy))["stages"]
    assert "shards" not in stages
    assert stages["units"]["finished"] is False
    assert stages["units"]["files_so_far"] == len(list(run_copy.glob("units/part-*.parquet")))
    assert stages["segments"]["finished"]


HUBERT = {"name": "hubert", "frame_rate_hz": 25.0}


@pytest.mark.parametrize(
    ("encoder", "size", "rate", "is_remarked"),
    [
        (HUBERT, 500, 54_000, True),
        (HUBERT, 500, 60_000, False),
        (HUBERT, 500, 73_000, True),
        (HUBERT, 100, 20_000, False),
        (HUBERT | {"frame_rate_hz": 50.0}, 500, 100_000, False),
        (HUBERT | {"name": "mfcc"}, 500, 20_000, False),
    ],
)
def test_unusual_rates_are_remarked_on_where_the_usual_one_is_known(
    run_copy: Path, encoder: dict[str, Any], size: int, rate: float, is_remarked: bool
) -> None:
    def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        content = json.loads((run_copy / name).read_text())
        change(content)
        (run_copy / name).write_text(json.dumps(content))

    manifest = parquet.read(str(run_copy / "shards/manifest.parquet")).to_pylist()
    for row in manifest:
        row["duration_s"] = row["num_units"] / rate * 3600
    parquet.write(str(run_copy / "shards/manifest.parquet"), pa.Table.from_pylist(manifest, schema=SAMPLE_SCHEMA))
    edit("shards/dataset.json", lambda info: info.update(encoder=encoder, num_units=size))
    remarks = describe_shards.describe_shards(str(run_copy / "shards"))["remarks"]
    assert [f"{rate:,.0f} units an hour are unusual" in remark for remark in remarks] == [True] * is_remarked


def test_damaged_shards_are_an_error_that_names_the_file(run_copy: Path) -> None:
    tar = run_copy / "shards/train/train-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:1000])
    with pytest.raises(DatasetError, match=r"train-000000\.tar ends too soon; `twist inspect --verify`"):
        describe_shards.describe_shards(str(run_copy / "shards"))
    tar.write_bytes(b"\xff" * len(content))
    with pytest.raises(TwistError, match=r"train-000000\.tar holds unit 65535, the codebook only 20 units"):
        describe_shards.describe_shards(str(run_copy / "shards"))
    tar.unlink()
    with pytest.raises(DatasetError, match=r"train-000000\.tar is missing"):
        describe_shards.describe_shards(str(run_copy / "shards"))


def test_a_part_with_units_out_of_range_is_an_error_that_names_it(run_copy: Path) -> None:
    uri = str(run_copy / "units/part-sounds-0000001.parquet")
    rows = parquet.read(uri).to_pylist()
    rows[0]["units"][0] = 300
    parquet.write(uri, pa.Table.from_pylist(rows, schema=parquet.read(uri).schema))
    with pytest.raises(TwistError, match=r"part-sounds-0000001\.parquet holds unit 300"):
        describe.describe_stage(str(run_copy), "units")
