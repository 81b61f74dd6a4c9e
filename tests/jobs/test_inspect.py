from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from jobs import codebook
from jobs.inspect import main
from model.lm.train_config import TrainConfig
from model.lm.trainer import train
from pipeline.files import parquet
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify
from pipeline.records import DROPPED_SCHEMA
from pipeline.shards import open_dataset
from pipeline.work.progress import ProgressFile, WorkProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

ARCHITECTURE = {
    "model_type": "opt",
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 64,
}
NUM_FLIPS = 8
PLACES = (
    "",
    "manifest",
    "language",
    "segments",
    "codebook",
    "units",
    "shards",
    "checkpoints",
    "checkpoints/00000002",
)


@pytest.fixture(scope="module")
def trained_run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a checkpoint; tests only read it."""
    run = Path(shutil.copytree(small_run, tmp_path_factory.mktemp("trained") / "run"))
    config = TrainConfig(
        architecture=ARCHITECTURE, batch_size=4, num_steps=2, warmup_steps=1, validate_every=1, max_units=64
    )
    train(config, str(run / "shards"), str(run / "checkpoints"))
    return run


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    """What the command prints."""
    found = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert found == status, captured.err
    assert (captured.err == "") == (status == 0), captured.err
    return captured.out if status == 0 else captured.out + captured.err


def inspect_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(inspect(capsys, *arguments, "--json"), parse_constant=pytest.fail)
    return description


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_shown_in_lines_that_fit_a_screen(
    trained_run: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspect(capsys, trained_run / place)
    lines = text.splitlines()
    assert str(trained_run / place) in lines[0]
    assert len(lines) > 4
    too_long = [line for line in lines[1:] if len(line) > 120]
    assert not too_long, "a person would see broken lines"
    assert not any(word in text for word in ("{", "None", "nan", "[")), f"raw data is no text:\n{text}"


@pytest.mark.parametrize("place", PLACES)
def test_every_place_can_be_read_by_programs_and_verified(
    trained_run: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    described = inspect_json(capsys, trained_run / place, "--verify")
    assert described["violations"] == []
    assert described["path"] == str(trained_run / place)
    kinds = {"": "run", "checkpoints/00000002": "checkpoint"}
    assert described["kind"] == kinds.get(place, place)
    assert "every checksum and invariant holds" in inspect(capsys, trained_run / place, "--verify")


def test_what_a_person_wants_to_know_of_a_run_is_there(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = inspect(capsys, trained_run)
    for wanted in (
        "manifest", "language", "segments", "codebook", "units", "shards", "checkpoints",
        "unreadable 1", "other_language 1 (8.0 s)", "missing 2 (6.0 s)", "duplicate 1 (5.0 s)",  # drops by reason
        "sounds/broken.wav", "same units as sounds/twin 1.wav",  # and examples of them
        "en 16, fr 1", "four in five from", "entropy", "perplexity", "an hour", "most to least frequent",
    ):  # fmt: skip
        assert wanted in " ".join(text.split()), f"{wanted!r} is not told:\n{text}"


def test_figures_of_the_json_are_sums_over_the_shards(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = inspect_json(capsys, trained_run / "shards")
    dataset = open_dataset(str(trained_run / "shards"))
    counts = np.zeros(20, np.int64)
    for row in dataset.manifest.to_pylist():
        content = (trained_run / "shards" / row["shard"]).read_bytes()
        units = np.frombuffer(content, "<u2", row["num_units"], row["units_offset"])
        counts += np.bincount(units, minlength=20)
    assert told["unit_histogram"] == counts.tolist()
    assert told["num_units"] == counts.sum() == sum(total["num_units"] for total in told["totals"])
    assert told["hours"] == pytest.approx(sum(dataset.manifest["duration_s"].to_pylist()) / 3600)
    assert inspect_json(capsys, trained_run)["stages"]["shards"]["num_units"] == told["num_units"]


def test_a_checkpoint_tells_its_size_and_history(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = inspect_json(capsys, trained_run)["checkpoints"]
    assert run["steps"][-1] == 2
    assert [point["step"] for point in run["validation_curve"]] == [0, 1, 2]
    assert run["perplexity"]["initial"] > 1
    one = inspect_json(capsys, trained_run / "checkpoints/00000002")
    assert one["architecture"] == "opt"
    assert one["num_parameters"] > 1000
    assert one["progress"]["step"] == 2


def test_long_training_curves_are_thinned_but_end_with_the_newest_point() -> None:
    curve = [{"step": 50 * i, "perplexity": 100.0 - i / 100} for i in range(1001)]
    checkpoints = {
        "trains": "speech_lm",
        "steps": [50_000],
        "num_units_seen": 1,
        "best_step": None,
        "validation_curve": curve,
    }
    perplexity = {"unigram": 120.0, "initial": 130.0, "best": None}
    text = as_text({"path": "/c", "kind": "checkpoints", **checkpoints, "perplexity": perplexity})
    assert "50,000: 90.00" in text
    assert len(text.splitlines()) < 12
    assert "None" not in text


def test_a_checkpoint_copied_elsewhere_is_shown(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(trained_run / "checkpoints/00000002", tmp_path / "best model")
    assert inspect_json(capsys, copied, "--verify")["progress"] is None
    assert "parameters" in inspect(capsys, copied)


def test_relative_paths_are_understood(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained_run / "units")
    for path, kind in (
        (".", "units"),
        ("./", "units"),
        ("..", "run"),
        ("../shards/", "shards"),
        ("../units/.", "units"),
    ):
        assert inspect_json(capsys, path)["kind"] == kind, path


def test_an_unfinished_run_is_shown(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run_copy / "shards")
    for name in ("DONE", "dropped.parquet", "part-sounds-0000000.parquet"):
        (run_copy / "units" / name).unlink()
    text = inspect(capsys, run_copy, "--verify")
    assert "not yet, 9 files" in text
    assert "every checksum and invariant holds" in text
    assert "not yet, 9 files" in inspect(capsys, run_copy / "units")
    assert "is not finished; run `twist tokenize`" in inspect(capsys, run_copy / "units", "--verify", status=2)


def test_work_that_goes_on_is_shown(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_copy / "units" / "DONE").unlink()
    now = time.time()
    work = WorkProgress(9, 5.0, num_done_before=3, hours_done_before=2.0, begun_at=now - 3600)
    work.add(1.5, {"decode": 30.0, "encode": 60.0, "commit": 10.0}, {"missing": 7})
    ProgressFile(str(run_copy / "units")).write(work, now)
    text = inspect(capsys, run_copy)
    assert "units: 3.50 of 5.00 h at 2 h/h, decode 30% encode 60% commit 10%, encode limits, dropped 7 missing" in text
    assert "about 1.0 h left" in text
    told = inspect_json(capsys, run_copy / "units")["progress"]
    assert (told["num_done"], told["num_chunks"], told["is_stale"]) == (1, 9, False)

    path = run_copy / "units" / "progress.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "told_at": now - 3600}))
    assert "the command has ended, or is stuck" in inspect(capsys, run_copy / "units")


def test_a_run_just_begun_is_shown(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("language", "segments", "codebook", "units", "shards"):
        shutil.rmtree(run_copy / name)
    (run_copy / "manifest/DONE").unlink()
    assert "not yet" in inspect(capsys, run_copy)


def test_a_codebook_that_was_given_tells_where_it_came_from(
    run_copy: Path, small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("codebook", "units", "shards"):
        shutil.rmtree(run_copy / name)
    place = small_run / "codebook"
    assert codebook.main(["--run", str(run_copy), "--codebook.path", str(place), "--codebook.num_units", "20"]) == 0
    assert capsys.readouterr().out == f"codebook   taken from {place}\n"
    text = inspect(capsys, run_copy / "codebook", "--verify")
    assert "20 units of 39 dimensions" in text
    assert str(place) in text


def test_violations_end_with_status_2_and_are_listed_whole(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_copy / "shards/train/train-000000.tar").unlink()
    tar = run_copy / "shards/validation/validation-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    for place in (run_copy, run_copy / "shards"):
        text = inspect(capsys, place, "--verify", status=2)
        assert f"wrong: {run_copy}/shards/train/train-000000.tar is missing\n" in text
        assert f"wrong: {tar} does not have the checksum that dataset.json gives\n" in text
        assert f"{place} is damaged: 2 violations, listed above" in text
    assert main([str(run_copy), "--verify", "--json"]) == 2
    described = json.loads(capsys.readouterr().out)
    assert len(described["violations"]) == 2


def test_without_verify_a_damaged_run_is_one_sentence(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_copy / "shards/train/train-000000.tar").unlink()
    text = inspect(capsys, run_copy, status=2)
    assert text.count("\n") == 1
    assert "train-000000.tar is missing; `twist inspect --verify` says what else is wrong" in text


def test_a_damaged_checkpoint_is_a_violation(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(trained_run / "checkpoints", tmp_path / "checkpoints"))
    weights = folder / "00000002/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors is not what was saved" in inspect(capsys, folder, "--verify", status=2)
    shutil.copy(trained_run / "checkpoints/00000002/model.safetensors", weights)
    (folder / "00000002/trainer_state.json").write_text("{")
    assert "trainer_state.json is not what was saved" in inspect(capsys, folder / "00000002", "--verify", status=2)
    assert "is damaged (trainer_state.json)" in inspect(capsys, folder / "00000002", status=2)


def test_pictures_are_drawn_of_units_and_shards(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, names in (
        ("", ["lengths-seconds", "lengths-units", "unit-histogram", "zipf"]),
        ("shards", ["lengths-seconds", "lengths-units", "unit-histogram", "zipf"]),
        ("units", ["unit-histogram", "zipf"]),
    ):
        folder = tmp_path / f"plots of {place}"
        text = inspect(capsys, trained_run / place, "--plots", folder)
        paths = sorted(folder.iterdir())
        assert [path.name for path in paths] == [f"{name}.png" for name in names]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
        assert all(path.name in text for path in paths)
    told = inspect_json(capsys, trained_run / "shards", "--plots", tmp_path / "more")
    assert sum(told["samples_s_histogram"]["counts"]) == told["num_samples"]
    assert len(told["plots"]) == 4


def test_pictures_need_something_to_draw(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "finds neither here" in inspect(capsys, trained_run / "manifest", "--plots", tmp_path / "a", status=2)
    (tmp_path / "file").write_text("")
    assert "cannot write pictures" in inspect(capsys, trained_run / "units", "--plots", tmp_path / "file", status=2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "needs matplotlib" in inspect(capsys, trained_run / "units", "--plots", tmp_path / "a", status=2)


def test_drops_are_told_by_reason_and_corpus(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_copy / "shards/dropped.parquet"
    row = parquet.read(str(path)).to_pylist()[0]
    others = [row, {**row, "corpus": "podcasts", "reason": "near_duplicate"}, {**row, "corpus": "podcasts"}] * 2
    parquet.write(str(path), pa.Table.from_pylist(others, schema=DROPPED_SCHEMA))
    text = [" ".join(line.split()) for line in inspect(capsys, run_copy / "shards").splitlines()]
    for line in ("duplicate podcasts 2 10.0 s", "duplicate sounds 2 10.0 s", "near_duplicate podcasts 2 10.0 s"):
        assert line in text
    told = inspect_json(capsys, run_copy / "shards")["dropped_by_corpus"]
    assert [(drop["reason"], drop["corpus"], drop["items"]) for drop in told] == [
        ("duplicate", "podcasts", 2), ("duplicate", "sounds", 2), ("near_duplicate", "podcasts", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no run"),
        ([], "path"),
        (["nowhere", "--colour"], "colour"),
        (["."], "is no run, and no stage, shards, codebook or checkpoint of one"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: Sequence[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect(capsys, *arguments, status=2)
    assert text.startswith("twist inspect: ")
    assert message in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("place", ["train", "dropped", "facts", "parts", "checkpoints"])
def test_a_flipped_bit_anywhere_in_a_run_is_found(place: str, trained_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    patterns = {
        "train": ["shards/*/*.tar", "shards/*.parquet", "shards/dataset.json", "units/part-*.parquet"],
        "dropped": ["*/dropped.parquet"],
        "facts": ["*/stage.json", "*/SHA256SUMS", "*/DONE", "codebook/codebook.*"],
        "parts": ["codebook/frames/*", "segments/*.parquet", "manifest/*.parquet", "language/*.parquet"],
        "checkpoints": ["checkpoints/0*/*"],
    }
    files = sorted(path for pattern in patterns[place] for path in run.glob(pattern))
    assert files
    generator = np.random.default_rng(16)
    unfound = []
    for _ in range(NUM_FLIPS):
        path = files[generator.integers(len(files))]
        bit = int(generator.integers(8 * path.stat().st_size))
        _flip(path, bit)
        if not list(verify(str(run), "run")):
            unfound.append(f"bit {bit} of {path.relative_to(run)}")
        _flip(path, bit)
    assert not unfound, f"{len(unfound)} of {NUM_FLIPS} went unnoticed"
    assert not list(verify(str(run), "run"))


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_stage_of_an_older_version_stays_valid_and_says_what_is_not_checked(
    run_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in run_copy.glob("*/stage.json"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({key: facts[key] for key in facts if key not in ("files", "sha256")}, indent=2))
    assert not list(verify(str(run_copy), "run"))
    assert "stage.json, dropped.parquet and parts of work" in caplog.text
