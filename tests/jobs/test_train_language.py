"""From speech in many languages to a classifier, stopped and resumed, and to a filter that takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from safetensors.torch import load_file

from model.language_id.pooled_folder import CLASSIFIER_WEIGHTS, ENCODER_WEIGHTS, read_facts
from pipeline.runs import LANGUAGE_CLASSIFIER, LANGUAGE_TRAINING
from pipeline.synthetic.config import LanguagesConfig
from pipeline.synthetic.language_sentences import VOICES
from pipeline.synthetic.many_languages import write_languages_corpus

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Twist


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, twist: Twist) -> Path:
    """The recipe of a run with segments in 29 languages."""
    root = tmp_path_factory.mktemp("languages")
    write_languages_corpus(root / "espeak", LanguagesConfig(minutes=0.3, english_minutes=2.0))
    content = {
        "run": str(root / "run"),
        "corpora": [{"kind": "folder", "root": str(root / "espeak"), "name": "espeak"}],
        "language": {"languages": sorted(VOICES)},
        "segments": {"max_s": 12, "detect_speech": "none"},
        "train_language": {
            "layer": 1, "views": 2, "num_steps": 60, "peak_lr": 5e-3, "warmup_steps": 4, "batch_size": 16,
            "crops_s": [3], "validate_every": 20, "checkpoint_every": 20, "validation_share": 0.3, "device": "cpu",
            "model": {"channels": 16, "attention_channels": 8, "hidden_size": 16},
        },
    }  # fmt: skip
    (root / "recipe.yaml").write_text(yaml.safe_dump(content))
    twist("run", "--config", root / "recipe.yaml", "--until", "segment")
    return root / "recipe.yaml"


def test_trained_again_it_is_the_same_and_the_filter_takes_it(recipe: Path, twist: Twist) -> None:
    root = recipe.parent
    first = twist("train-language", "--config", recipe, "--output", root / "first")
    assert "60 steps" in first.stdout and "another language below" in first.stdout
    facts = read_facts(root / "first")
    assert facts.labels[0] == "en" and len(facts.labels) > 20 and set(facts.labels) <= set(VOICES)
    assert "of en by" in facts.trained_on and "of other languages by" in facts.trained_on
    kept = sorted((root / "run" / "language_training").glob("frames-*/*.safetensors"))
    assert kept, "frames are not kept"
    before = {path: path.stat().st_mtime_ns for path in kept}
    twist("train-language", "--config", recipe)
    second = root / "run" / LANGUAGE_CLASSIFIER
    assert "verified" in twist("inspect", root / "run", "--verify").stdout
    assert before == {path: path.stat().st_mtime_ns for path in kept}, "frames were made again"
    ours, theirs = (load_file(folder / CLASSIFIER_WEIGHTS) for folder in (root / "first", second))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    told = twist("inspect", root / "run" / LANGUAGE_TRAINING / "00000060").stdout
    assert ", ".join(facts.labels) in " ".join(told.split()) and "60 steps over" in told
    (weights, *_) = sorted((root / "run" / LANGUAGE_TRAINING).glob(f"*/{CLASSIFIER_WEIGHTS}"))
    for damaged in (second / ENCODER_WEIGHTS, weights):
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        assert str(damaged) in twist("inspect", root / "run", "--verify", status=2).stdout
    model = ("--run", root / "filtered", "--language.audio.model", root / "first")
    corpora = f'[{{"kind": "folder", "root": "{root / "espeak" / "de"}", "name": "unlabelled"}}]'
    twist("manifest", "--corpora", corpora, "--run", root / "filtered")
    told = twist("filter", *model, "--language.unknown", "keep")
    assert "WEAK EVIDENCE" in told.stdout and "was trained on no more than" in told.stdout
    assert "audio:embedded" in twist("inspect", root / "filtered" / "language").stdout


def test_a_folder_on_s3_is_refused(recipe: Path, twist: Twist) -> None:
    refused = twist("train-language", "--config", recipe, "--output", "s3://bucket/model", status=2)
    assert "name a local folder by --output" in refused.stderr
