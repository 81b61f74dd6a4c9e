"""Your own tokenizer through the commands: MFCC units, pretraining, then its checkpoint as the next run's encoder."""

from __future__ import annotations

import json

from tests.jobs.small_trainings import PRETRAIN


def test_a_tokenizer_is_pretrained_and_used(twist, finished_copy, demo_speech, recipe, tmp_path):
    first, second = finished_copy, tmp_path / "second"
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.read_text().split("train:")[0] + PRETRAIN)

    said = twist("pretrain-tokenizer", "--config", path, "--run", first).stdout
    assert "4 steps over" in said
    metrics = [json.loads(line) for line in (first / "tokenizer/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "masked_loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in metrics if "validation" in line] == [2, 4]
    again = twist("pretrain-tokenizer", "--config", path, "--run", first).stdout
    assert "from step 4" in again

    encoder = ("--encoder.name", "hubert", "--encoder.path", first / "tokenizer/00000004", "--encoder.layer", 2)
    made = twist("run", "--config", path, "--run", second, "--audio", demo_speech, "--until", "tokenize", *encoder)
    assert "units      kept" in made.stdout
    assert not (second / "shards").exists(), "--until tokenize packs nothing"
    book = json.loads((second / "codebook/codebook.json").read_text())
    assert (book["encoder"]["layer"], book["feature_dim"], book["encoder"]["frame_rate_hz"]) == (2, 32, 25.0)
    description = json.loads(twist("inspect", second, "--json", "--verify").stdout)
    assert description["violations"] == []


def test_a_run_that_is_not_tokenized_is_refused(twist, recipe, tmp_path):
    done = twist("pretrain-tokenizer", "--config", recipe, "--run", tmp_path, status=2)
    assert "units" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_stage_to_end_at_is_refused(twist, recipe, tmp_path):
    done = twist("run", "--config", recipe, "--run", tmp_path, "--until", "units", status=2)
    assert "until" in done.stderr and "tokenize" in done.stderr


def test_voices_are_synthesized(twist, tmp_path):
    said = twist("make-speech", "voices", tmp_path / "voices", "--speech.hours", 0.005, "--speech.test_sentences", 2)
    assert "12, in" in said.stdout, "two sentences by six voices"
    refused = twist("make-speech", "voices", tmp_path / "other", "--speech.hours", 0, status=2)
    assert "hours is above 0" in refused.stderr
