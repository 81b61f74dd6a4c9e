"""The tutorials' own words, run: the trainer of others, and from a folder to a model that speaks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs/tutorials"


def blocks_of(page: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (TUTORIALS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_a_trainer_without_this_project_learns_from_the_shards(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(finished_run)
    (code,) = blocks_of("own-trainer.md", "python")
    assert not re.search(r"(import|from) (pipeline|model|jobs|twist)\b", code)
    words = [sys.executable, "-I", "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"epoch \d: ([\d.]+)", done.stdout)]
    assert len(losses) == 10 and losses[-1] < losses[0], done.stdout


@pytest.mark.faults
def test_the_commands_from_a_folder_to_a_speaking_model_work_as_they_stand(demo_speech: Path, tmp_path: Path) -> None:
    """Minutes: each command starts anew, as a user's does."""
    (tmp_path / "my-speech").symlink_to(demo_speech)
    commands = "\n".join(["set -euo pipefail", *blocks_of("your-folder.md")])
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.glob("*.wav")} == {
        *("continuation.wav", "continuation.original.wav", "again.wav", "again.original.wav"),
    }
    assert "validation perplexity" in done.stdout
