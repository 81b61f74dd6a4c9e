"""Checkpoints of the vocoder and the tokenizer; those of the speech LM are in tests/jobs/test_inspect.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model.encoder.hubert_trainer import pretrain
from model.vocoder.trainer import train_vocoder
from pipeline.inspection.describe import describe, kind_of
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify
from tests.model import labelled_tones
from tests.model.labelled_tones import LabelledTones
from tests.model.vocoder import test_trainer as vocoder_settings

CLIPS, VALIDATION = LabelledTones(), LabelledTones((44, 50, 60), fingerprint="more tones")
STEPS = {"num_steps": 2, "validate_every": 1, "warmup_steps": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vocoder and a tokenizer of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    settings = vocoder_settings.small_config(**STEPS, discriminator_start=0)
    train_vocoder(settings, CLIPS, VALIDATION, "the codebook", str(folder / "vocoder"))
    pretrain(labelled_tones.small_config(**STEPS), CLIPS, VALIDATION, str(folder / "tokenizer"))
    return folder


@pytest.mark.parametrize(("name", "figure"), [("vocoder", "mel_distance"), ("tokenizer", "masked_loss")])
def test_a_trainers_folder_tells_its_curve(trained: Path, name: str, figure: str) -> None:
    uri = str(trained / name)
    assert kind_of(uri) == "checkpoints"
    described = describe(uri, "checkpoints")
    assert (described["trains"], described["steps"][-1]) == (name, 2)
    assert [point["step"] for point in described["validation_curve"]] == [1, 2]
    assert described[figure]["best"] == min(point[figure] for point in described["validation_curve"])
    text = as_text({"path": uri, "kind": "checkpoints", **described})
    assert figure.replace("_", " ") in text
    assert "None" not in text


@pytest.mark.parametrize("name", ["vocoder", "tokenizer"])
def test_one_checkpoint_tells_its_model(trained: Path, name: str) -> None:
    uri = str(trained / name / "00000002")
    assert kind_of(uri) == "checkpoint"
    described = describe(uri, "checkpoint")
    assert (described["holds"], described["progress"]["step"]) == (name, 2)
    assert described["num_parameters"] > 1000
    assert "trained for       2 steps" in as_text({"path": uri, "kind": "checkpoint", **described})


@pytest.mark.parametrize("name", ["vocoder", "tokenizer"])
def test_sound_checkpoints_have_no_violation_and_damaged_ones_have(trained: Path, name: str) -> None:
    uri = str(trained / name)
    assert list(verify(uri, "checkpoints")) == []
    weights = trained / name / "00000002/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + bytes(3) + b"\x01")
    try:
        assert list(verify(uri, "checkpoints")) == [f"{weights} is not what was saved"]
    finally:
        weights.write_bytes(content)


def test_runs_are_described_and_verified_without_torch(small_run: Path) -> None:
    script = """
import sys
from pipeline.inspection.describe import describe
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify
as_text({"path": sys.argv[1], "kind": "run", **describe(sys.argv[1], "run")})
assert not list(verify(sys.argv[1], "run"))
print(sorted({"torch", "transformers", "ray"} & sys.modules.keys()))
"""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, str(small_run)], capture_output=True, text=True, check=False, cwd=root
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), f"they take seconds to import: {done.stdout}{done.stderr}"
