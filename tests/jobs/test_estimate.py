"""`twist estimate` on speech that can be worked on whole: what it says is what `twist run` then finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

# Parts are worked on in Ray, which takes a while to start; tests of one file share it.
pytestmark = pytest.mark.xdist_group("estimate")


@pytest.fixture(scope="module")
def estimated(twist, recipe, demo_speech, tmp_path_factory):
    run = tmp_path_factory.mktemp("estimate") / "run"
    command = ("estimate", "--config", recipe, "--run", run, "--audio", demo_speech, "--parts", 2, "--json")
    return run, json.loads(twist(*command).stdout)


def test_of_all_the_corpus_it_says_what_a_run_finds(estimated, finished_run):
    _, told = estimated
    facts = {name: json.loads((finished_run / name / "stage.json").read_text()) for name in ("manifest", "units")}
    assert told["corpus_hours"] == pytest.approx(facts["manifest"]["counts"]["kept"]["hours"])
    assert told["sample_hours"] == pytest.approx(told["corpus_hours"])
    assert told["amounts"]["hours in segments"]["value"] == pytest.approx(facts["units"]["counts"]["input"]["hours"])
    assert told["num_parts"] == 2
    assert told["core_hours"]["tokenize"]["value"] > 0
    assert "pitch" not in told["core_hours"], "the recipe has none"
    assert told["stored_gb"]["shards"]["value"] > 0


def test_the_manifest_is_kept_and_nothing_else(estimated):
    run, _ = estimated
    assert {path.name for path in Path(run).iterdir()} <= {"manifest", "recipe.yaml"}
    assert (run / "manifest" / "DONE").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sample-hours", "0"), "must be positive"),
        (("--parts", "0"), "must be positive"),
        (("--days", "-1"), "--days must be positive"),
        (("--days", "1", "--json"), "are for people"),
    ],
)
def test_refused(options, said, twist, recipe, demo_speech, tmp_path):
    command = ("estimate", "--config", recipe, "--run", tmp_path / "run", "--audio", demo_speech)
    assert said in twist(*command, *options, status=2).stderr
    assert not (tmp_path / "run").exists()
