"""Training a pitch tokenizer: resumed = uninterrupted, two processes = one, it learns, dead codes, what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.pitch.contour import Contour, features_of
from model.pitch.contours import Contours, PitchBatches, validation_contours
from model.pitch.model_config import PitchModelConfig
from model.pitch.moving_codebook import MovingCodebook
from model.pitch.tokenizer import load_pitch_tokenizer
from model.pitch.train_config import PitchTrainConfig
from model.pitch.trainer import AVERAGES, train_pitch
from model.training import checkpoint_steps
from model.training.distributed import Ranks
from model.training.metrics import read_metrics
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from model.pitch.trainer import PitchResult
    from model.training.training import OnEvent

SCRIPT = """
import json, sys
import torch
from model.pitch.trainer import train_pitch
from tests.model.pitch.test_trainer import TRAIN, VALIDATION, small_config

torch.set_num_threads(1)
train_pitch(small_config(**json.loads(sys.argv[1])), TRAIN, VALIDATION, sys.argv[2])
"""


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


def contours(lengths: tuple[int, ...], seed: int, name: str) -> Contours:
    """Voices that wave around means of their own, with pauses."""
    generator = np.random.default_rng(seed)
    made = []
    for length in lengths:
        time = np.arange(length) / 200
        f0 = generator.uniform(90, 250) * 2 ** (0.3 * np.sin(2 * np.pi * generator.uniform(0.5, 2) * time))
        is_voiced = np.sin(2 * np.pi * generator.uniform(0.5, 1.5) * time + generator.uniform(0, 6)) > -0.5
        made.append(Contour((f0 * is_voiced).astype(np.float32), is_voiced))
    return Contours.of(made, name)


TRAIN, VALIDATION = contours((200, 160, 300, 90, 240, 70), 0, "some"), contours((130, 111, 400), 1, "others")
NETWORK = PitchModelConfig(num_codes=16, code_dim=16, width=16, depth=2, f0_scale_hz=50.0)


def small_config(**changes: Any) -> PitchTrainConfig:
    settings: dict[str, Any] = {
        "model": NETWORK,
        "batch_size": 4,
        "crop_frames": 80,
        "num_steps": 10,
        "peak_lr": 1e-3,
        "warmup_steps": 2,
        "validate_every": 1000,
        "checkpoint_every": 1000,
        "log_every": 1,
        "device": "cpu",
        **changes,
    }
    return PitchTrainConfig(**settings)


def train(config: PitchTrainConfig, folder: Path, on_event: OnEvent = lambda _: None) -> PitchResult:
    return train_pitch(config, TRAIN, VALIDATION, str(folder), on_event)


def killed_at(step: int) -> OnEvent:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    return on_event


def curve(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each step, without those that depend on time."""
    return [
        {name: value for name, value in line.items() if name not in ("time", "audio_s_per_s")}
        for line in read_metrics(str(folder))
    ]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    path = Path(checkpoint_steps.step_folder(str(folder), step))
    return {**load_file(path / "model.safetensors"), **load_file(path / AVERAGES)}


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    config = small_config(checkpoint_every=3, validate_every=4)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", killed_at(8))
    resumed = train(config, tmp_path / "killed")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "killed", 10), weights(tmp_path / "whole", 10)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed == dataclasses.replace(whole, checkpoint=resumed.checkpoint)
    assert whole.hours_seen == pytest.approx(10 * 4 * 80 / 200 / 3600)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"validate_every": 5, "num_steps": 6, "dead_below": 0.0}
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script), json.dumps(settings), str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = curve(tmp_path / "two")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    # The first codes are drawn from the main process's outputs, of which one process has more.
    counts = load_file(Path(checkpoint_steps.step_folder(str(tmp_path / "two"), 6)) / AVERAGES)["counts"]
    per_step = 4 * 80 / 16
    expected = len(counts) * 0.99**6 + per_step * (1 - 0.99**6)
    assert counts.sum().item() == pytest.approx(expected, rel=1e-4), "counts are summed over processes"


def test_it_learns_pitch_and_voicing(tmp_path: Path) -> None:
    config = small_config(num_steps=400, peak_lr=3e-3, batch_size=8, validate_every=200, log_every=200)
    result = train(config, tmp_path)
    scores = [line["validation"] for line in curve(tmp_path) if "validation" in line]
    assert scores[-1]["loss"] < 0.5 * float(
        np.mean([trivial_loss(one) for one in validation_contours(VALIDATION, config)])
    )
    assert result.best is not None
    assert scores[-1]["voicing_error"] < 0.2 and scores[-1]["codes_used"] > 8
    assert scores[-1]["f0_error_cents"] < 400
    tokenizer = load_pitch_tokenizer(result.checkpoint)
    contour = validation_contours(VALIDATION, config)[0]
    made = tokenizer.contour(tokenizer.codes_of_contour(contour), contour.mean_hz or 0.0)
    cents = 1200 * np.abs(np.log2(made.f0[contour.f0 > 0] / contour.f0[contour.f0 > 0]))
    assert cents.mean() < 400, "a checkpoint is a tokenizer"


def trivial_loss(contour: Contour) -> float:
    """The loss of the best constant."""
    features = features_of(contour, NETWORK.features) / np.array([[NETWORK.f0_scale_hz], [1.0]])
    return float(features.var(axis=1).mean())


def test_a_codebook_follows_its_outputs() -> None:
    latents = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 10.0]])
    book = torch.zeros(2, 2)
    averages = MovingCodebook(book, decay=0.5, dead_below=0.1)
    averages.begin(latents, Ranks())
    assert all((latents == row).all(1).any() for row in book), "codes begin as outputs"
    book.copy_(torch.tensor([[0.0, 1.0], [9.0, 9.0]]))
    averages.sums.copy_(book)
    assert averages.update(latents, torch.tensor([0, 0, 1]), Ranks()) == 0
    # counts 0.5 + 0.5 n, sums 0.5 k + 0.5 sum
    torch.testing.assert_close(averages.counts, torch.tensor([1.5, 1.0]))
    torch.testing.assert_close(book, torch.tensor([[0.0, 1.5 / 1.5], [9.5, 9.5]]))
    averages.begin(latents + 100, Ranks())
    assert book.max() < 10, "only the first batch begins it"


def test_dead_codes_become_outputs() -> None:
    latents = torch.randn(50, 4)
    book = torch.randn(3, 4)
    averages = MovingCodebook(book, decay=0.9, dead_below=1.0)
    averages.begin(latents, Ranks())
    revived = [averages.update(latents, torch.zeros(50, dtype=torch.int64), Ranks()) for _ in range(2)]
    assert revived == [2, 2]
    for code in book[1:]:
        assert (latents == code).all(1).any()


def test_fewer_outputs_than_codes_are_repeated() -> None:
    book = torch.zeros(8, 4)
    MovingCodebook(book, 0.99, 1.0).begin(torch.ones(3, 4), Ranks())
    assert len(book.unique(dim=0)) == 8 and (book - 1).abs().max() < 0.1


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_part_a_batch(world_size: int) -> None:
    whole = PitchBatches(TRAIN, small_config())[7].features
    parts = [PitchBatches(TRAIN, small_config(), rank, world_size)[7].features for rank in range(world_size)]
    assert torch.equal(torch.cat(parts), whole) and whole.shape == (4, 2, 80)


def test_a_crop_has_lost_its_clips_mean() -> None:
    batches = PitchBatches(TRAIN, small_config())
    wholes = [torch.from_numpy(features_of(TRAIN[number], NETWORK.features)) for number in range(len(TRAIN))]
    for crop in batches[3].features:
        assert any(
            (whole.unfold(1, 80, 1) == crop[:, None]).all(2).all(0).any() for whole in wholes if whole.shape[1] >= 80
        )
    assert batches.num_clips == 5, "one is shorter than a crop"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="no clip is as long as crop_frames"):
        train(small_config(crop_frames=800), tmp_path)
    with pytest.raises(TwistError, match="cannot be parted evenly among 3"):
        PitchBatches(TRAIN, small_config(), 0, 3)
    train(small_config(num_steps=3), tmp_path)
    with pytest.raises(TwistError, match=r"commit_weight was 0.02, is 1.0"):
        train(small_config(num_steps=3, commit_weight=1.0), tmp_path)
    with pytest.raises(TwistError, match="other clips or units"):
        train_pitch(small_config(num_steps=3), TRAIN, TRAIN, str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_frames": 90}, "crop_frames is 90; it must be a multiple of 16"),
        ({"codebook_decay": 1.0}, r"codebook_decay is 1\.0"),
        ({"max_hours": 0.0}, r"max_hours is 0\.0"),
        ({"validation_share": 1.0}, r"validation_share is 1\.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TwistError, match=words):
        small_config(**changes)
