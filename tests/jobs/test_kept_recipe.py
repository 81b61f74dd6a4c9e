"""A run keeps the recipe that it was made with, and its later commands take it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from jobs.recipe import read_recipe


def kept(run: Path) -> dict:
    return yaml.safe_load((run / "recipe.yaml").read_text())


def settings(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "stage.json").read_text())["config"]


def test_later_commands_run_on_the_recipe_of_the_first(twist, recipe, demo_speech, finished_run, shard_files, tmp_path):
    run = tmp_path / "run"
    twist("manifest", "--config", recipe, "--run", run, "--audio", demo_speech)
    for command in ("filter", "segment", "codebook", "tokenize", "pack"):
        said = twist(command, "--run", run)
        assert "note:" not in said.stderr
    assert shard_files(run) == shard_files(finished_run)
    assert "8 steps" in twist("train", "--run", run).stdout
    assert "already finished" in twist("run", "--run", run).stdout


def test_options_are_kept_for_the_stages_after(finished_copy, twist):
    (finished_copy / "segments").rename(finished_copy / "aside")
    for name in ("codebook", "units", "shards", "checkpoints"):
        (finished_copy / name).rename(finished_copy / f"aside-{name}")
    told = twist("segment", "--run", finished_copy, "--segments.max_s", 6)
    assert "segments.max_s was 8.0, is 6.0" in told.stderr
    assert kept(finished_copy)["segments"]["max_s"] == 6
    assert "already finished" in twist("segment", "--run", finished_copy).stdout
    assert settings(finished_copy, "segments")["max_s"] == 6


def test_a_recipe_given_later_holds_for_stages_that_were_not_begun(twist, recipe, demo_speech, tmp_path):
    run = tmp_path / "run"
    twist("manifest", "folder", demo_speech, "--run", run)
    twist("filter", "--config", recipe, "--run", run)
    twist("segment", "--config", recipe, "--run", run, "--segments.detect_speech", "all")
    assert settings(run, "segments")["detect_speech"] == "all"
    assert kept(run)["corpora"][0]["kind"] == "folder" and kept(run)["pack"]["min_shards"] == 3
    other = tmp_path / "other.yaml"
    other.write_text(
        "language: {languages: [de]}\npack: {min_shards: 4}\ncodebook: {num_units: 10, num_iterations: 5}\n"
    )
    told = twist("codebook", "--config", other, "--run", run).stderr
    assert "language.languages was ['en'], is ['de'] in the recipe given" in told
    assert "pack.min_shards was 3, is 4" in told
    assert kept(run)["language"]["languages"] == ["en"], "what a stage ran with was overwritten"
    assert kept(run)["pack"]["min_shards"] == 4 and kept(run)["codebook"]["num_units"] == 10
    assert kept(run)["encoder"]["name"] == "mfcc"


def test_what_a_finished_stage_refuses_is_not_kept(finished_copy, twist, tmp_path):
    before = (finished_copy / "recipe.yaml").read_bytes()
    told = twist("segment", "--run", finished_copy, "--segments.max_s", 20, status=2).stderr
    assert "max_s was 8.0, is 20.0" in told
    assert (finished_copy / "recipe.yaml").read_bytes() == before
    twist("train", "--run", finished_copy, "--train.peak_lr", 0.5, status=2)
    assert (finished_copy / "recipe.yaml").read_bytes() == before
    new = tmp_path / "new"
    twist("filter", "--run", new, status=2)
    assert not (new / "recipe.yaml").exists()


def test_trainings_elsewhere_do_not_change_the_runs_recipe(finished_copy, twist, tmp_path):
    before = (finished_copy / "recipe.yaml").read_bytes()
    twist("train", "--run", finished_copy, "--checkpoints", tmp_path / "other", "--train.num_steps", 3)
    assert (finished_copy / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize("text", ["segments: {max: 3}\n", "segments: [\n", "\xff"])
def test_a_damaged_recipe_of_a_run_is_told_in_a_sentence(text, tmp_path, twist):
    (tmp_path / "recipe.yaml").write_bytes(text.encode("latin-1"))
    told = twist("filter", "--run", tmp_path, status=2).stderr
    assert "recipe.yaml" in told and "--config" in told and len(told.splitlines()) == 1


def test_the_kept_recipe_gives_back_the_settings_it_was_made_of(finished_run):
    sections = ("segments", "encoder", "codebook", "pack", "train", "language", "same_speech")
    first, _ = read_recipe("run", "", sections, ["--run", str(finished_run)])
    second, _ = read_recipe("run", "", (), ["--config", str(finished_run / "recipe.yaml"), "--run", "elsewhere"])
    assert all(getattr(first, name) == getattr(second, name) for name in sections)
