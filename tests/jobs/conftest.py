"""A small recipe, its speech and its finished run, for tests that run commands as a user does."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.__main__ import main
from pipeline.synthetic.config import DemoCorpusConfig
from pipeline.synthetic.demo import write_demo_corpus
from pipeline.work import cluster, dataflow
from tests.conftest import map_here, run_here
from tests.jobs.whole_runs import WholeRun, commands, write_recipe

RECIPE = """\
language: {languages: [en], unknown: keep}
segments: {max_s: 8, detect_speech: long, work_unit_minutes: 0.25}
encoder: {name: mfcc}
codebook: {num_units: 20, num_iterations: 5}
pack: {min_shards: 3, split: {corpus_splits: ignore, validation: 0.3, test: 0.0}}
train:
  architecture: {model_type: opt, hidden_size: 16, word_embed_proj_dim: 16, num_hidden_layers: 1,
                 num_attention_heads: 2, ffn_dim: 32, max_position_embeddings: 1024, dropout: 0.1}
  batch_size: 4
  num_steps: 8
  warmup_steps: 2
  peak_lr: 1.0e-2
  final_lr: 1.0e-3
  validate_every: 4
  checkpoint_every: 2
  log_every: 1
"""


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


Twist = Callable[..., Done]


@pytest.fixture(scope="session")
def twist() -> Twist:
    """Runs `twist ARGUMENTS` in this process, because loading torch and starting Ray take longer than the work."""

    def run(*arguments: object, status: int = 0) -> Done:
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                found: object = main([str(argument) for argument in arguments])
            except SystemExit as end:  # argparse, on options that do not exist
                found = end.code
        assert found == status, f"exit status {found}\n{stdout.getvalue()}\n{stderr.getvalue()}"
        return Done(stdout.getvalue(), stderr.getvalue())

    return run


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Makes a folder in the first test process that asks for its name; the others wait for it, and all read it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of the folders of all workers

    def make_folder(name: str, make: Callable[[Path], object]) -> Path:
        folder, is_made = shared / name, shared / f"{name}.made"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a process that failed has left
                make(folder)
                is_made.touch()
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough while a child process has the file open
        return folder

    return make_folder


@pytest.fixture(scope="session")
def demo_speech(make_once: MakeOnce) -> Path:
    """About two minutes of synthesized speech, including other languages and a broken file; tests only read it."""
    config = DemoCorpusConfig(minutes=2.0, num_english_voices=4)
    return make_once("speech", lambda folder: write_demo_corpus(folder, config))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that takes seconds."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def finished_run(make_once: MakeOnce, twist: Twist, recipe: Path, demo_speech: Path) -> Path:
    """A run from audio to a trained model, never interrupted; tests only read it."""
    command = ("run", "--config", recipe, "--audio", demo_speech)
    return make_once("finished_run", lambda folder: twist(*command, "--run", folder))


@pytest.fixture
def finished_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run to change, break or go on from."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def whole_run(make_once: MakeOnce, twist: Twist, recipe: Path, demo_speech: Path) -> WholeRun:
    """A run with all that commands make, and its recipe; tests only read it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataflow, "run_chunks", run_here)
            patch.setattr(cluster, "map_tasks", map_here)
            own = write_recipe(folder, recipe.read_text())
            for command in commands(own, str(folder / "run"), str(demo_speech)):
                twist(*command)

    folder = make_once("whole", make)
    return WholeRun(folder / "run", folder / "whole.yaml")


@pytest.fixture(scope="session")
def shard_files() -> Callable[[Path], dict[str, bytes]]:
    """Reads the files that a trainer reads of a run's shards: tars and index, not the stage's own records."""

    def read(run: Path) -> dict[str, bytes]:
        files = [*run.glob("shards/*/*.tar"), run / "shards/manifest.parquet", run / "shards/dataset.json"]
        return {str(path.relative_to(run)): path.read_bytes() for path in files}

    return read
