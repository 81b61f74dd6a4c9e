"""`twist run`: a whole run, killed halfway, repeated, run twice at once, and with changed settings."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_ends_with_shards_a_checkpoint_and_no_violation(finished_run, twist):
    description = json.loads(twist("inspect", finished_run, "--json", "--verify").stdout)
    assert description["violations"] == []
    assert set(description["stages"]) == {"manifest", "language", "segments", "codebook", "units", "shards"}
    dropped = description["stages"]["language"]["counts"]["dropped"]
    assert dropped["other_language"]["items"] >= 3, "the three other languages were not dropped"
    assert description["stages"]["manifest"]["counts"]["dropped"]["unreadable"]["items"] == 1, "the broken file"
    assert description["checkpoints"]["perplexity"]["best"] < description["checkpoints"]["perplexity"]["initial"]


def test_running_it_again_does_nothing_twice(finished_copy, twist, recipe, demo_speech):
    def files():
        # A result names the folder that was measured, which this copy is another than.
        found = (path for path in finished_copy.rglob("*.parquet") if "evaluation" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in found}

    before = files()
    output = twist("run", "--config", recipe, "--run", finished_copy, "--audio", demo_speech).stdout
    assert output.count("already finished") == 7, f"six stages and training should have been skipped:\n{output}"
    assert files() == before, "files were written again"


def test_what_was_missing_is_taken_up_again_when_asked(twist, recipe, demo_speech, tmp_path):
    corpus = Path(shutil.copytree(demo_speech, tmp_path / "speech"))
    file = min(path for path in corpus.rglob("*") if path.suffix == ".flac")
    file.rename(tmp_path / "elsewhere.flac")
    file.symlink_to(tmp_path / "nowhere.flac")
    command = ("run", "--config", recipe, "--run", tmp_path / "run", "--audio", corpus, "--until", "filter")
    assert "1 missing" in twist(*command).stdout
    (tmp_path / "elsewhere.flac").rename(tmp_path / "nowhere.flac")
    assert "1 missing" in twist(*command).stdout, "nobody asked for it to be taken up"
    refused = twist(*command, "--retry-dropped", status=2)
    assert "1 missing" not in refused.stdout
    assert "its input manifest has changed since" in refused.stderr


@pytest.mark.faults
def test_killed_at_random_moments_it_ends_with_the_same_shards(
    finished_run, shard_files, recipe, demo_speech, tmp_path
):
    run = tmp_path / "killed"
    seed = random.randrange(10**6)
    generator = random.Random(seed)
    command = [sys.executable, "-m", "jobs.run", "--config", recipe, "--run", run, "--audio", demo_speech]
    began = time.monotonic()
    for _ in range(5):
        process = subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(2.0, 14.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert last.returncode == 0, f"seed {seed}: {last.stderr}"
    assert shard_files(run) == shard_files(finished_run), f"seed {seed}, killed within {time.monotonic() - began:.0f} s"
    assert not list(run.rglob("*.tmp")), f"seed {seed}: temporary files were left"


def test_other_settings_are_refused_in_one_sentence(finished_copy, twist, recipe, demo_speech):
    done = twist(
        "run", "--config", recipe, "--run", finished_copy, "--audio", demo_speech, "--segments.max_s", 9, status=2
    )
    assert "segments.max_s" in done.stderr or "max_s was 8" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.faults
def test_two_processes_do_not_work_on_one_stage(twist, recipe, demo_speech, tmp_path):
    command = [sys.executable, "-m", "jobs.run", "--config", recipe, "--run", tmp_path / "run", "--audio", demo_speech]
    command += ["--until", "pack"]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in both]
    statuses = [process.returncode for process in both]
    # One may also come between two stages of the other, find the work finished and continue from there.
    assert 0 in statuses and set(statuses) <= {0, 2}, f"{statuses}: {errors}"
    assert all("Traceback" not in error for error in errors), errors
    violations = json.loads(twist("inspect", tmp_path / "run", "--json", "--verify").stdout)["violations"]
    assert violations == []
