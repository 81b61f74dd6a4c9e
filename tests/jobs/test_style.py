"""twist train-style and twist style on a finished run, and the shards that come of it with a stand-in for pitch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Twist


def test_a_run_gets_a_style_model_and_codes(twist: Twist, finished_copy: Path) -> None:
    done = twist("train-style", "--run", finished_copy, "--train_style.num_codes", 4)
    assert "4 codes on" in done.stdout
    twist("style", "--run", finished_copy, "--style.model", finished_copy / "style_model")
    facts = json.loads((finished_copy / "style/stage.json").read_text())
    assert facts["style_model"]["num_codes"] == 4 and sum(facts["code_counts"]) > 0
    twist("inspect", finished_copy / "style", "--verify")
    shown = twist("inspect", finished_copy / "style").stdout
    assert "4 codes, 1 a second" in shown
    assert "style:" in (finished_copy / "recipe.yaml").read_text(), "the run keeps which model it took"


def test_without_a_model_it_says_what_to_do(twist: Twist, finished_copy: Path) -> None:
    done = twist("style", "--run", finished_copy, status=2)
    assert "style.model names no model" in done.stderr
