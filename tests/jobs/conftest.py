"""A small recipe and its speech, for tests that run commands as a user does: in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.synthetic.config import DemoCorpusConfig
from pipeline.synthetic.demo import write_demo_corpus

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture(scope="session")
def demo_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About two minutes of synthesized speech, with other languages and a broken file among it."""
    folder = tmp_path_factory.mktemp("demo") / "speech"
    write_demo_corpus(folder, DemoCorpusConfig(minutes=2.0, num_english_voices=4))
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that takes seconds."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


Twist = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def twist() -> Twist:
    """Runs `twist ARGUMENTS` to its end."""

    def run(*arguments: object, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "jobs", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, twist: Twist, recipe: Path, demo_speech: Path) -> Path:
    """A run that was never interrupted; tests only read it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    twist("run", "--config", recipe, "--run", run, "--audio", demo_speech)
    return run


@pytest.fixture(scope="session")
def shard_files() -> Callable[[Path], dict[str, bytes]]:
    """What a reader of a run's shards sees: tars and index, not the log of how they were made."""

    def read(run: Path) -> dict[str, bytes]:
        files = [*run.glob("shards/*/*.tar"), run / "shards/manifest.parquet", run / "shards/dataset.json"]
        return {str(path.relative_to(run)): path.read_bytes() for path in files}

    return read
