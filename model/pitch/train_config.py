"""Settings of pitch training, and which of them a resumed run may change."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.device import Device
from model.pitch.model_config import PitchModelConfig
from model.training.rules import Precision, Rules, may_change, rate_of_step
from model.training.schedule import Schedule


@dataclass(frozen=True)
class PitchTrainConfig:
    """How a pitch tokenizer is trained. Defaults are the published ones where these are known.

    Args:
        model: Shape of the tokenizer, and what it sees.
        max_hours: Hours of the run's segments whose pitch is found to train on; a random draw where there are more.
        batch_size: Contours per step, over all processes.
        crop_frames: Frames of 5 ms of each contour per step; the start is drawn anew each time.
        num_steps: Updates to make.
        commit_weight: Weight of the distance of the encoder's outputs from their codes.
        codebook_decay: Decay of the codebook's moving averages.
        dead_below: A code that is used less often than this per update, on average, becomes a random output of the
            encoder.
        peak_lr: Learning rate after warm-up.
        final_lr: Learning rate at the last step.
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls from there: linear, cosine or inverse_sqrt.
        weight_decay: AdamW's weight decay, applied to matrices.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Largest norm of the gradient; null: no clipping.
        validation_share: Share of speakers to keep for validation (of recordings, where fewer than two are known).
        validation_clips: Most segments of these to validate on.
        precision: float32, or bfloat16 for the forward and backward pass (weights stay in float32).
        seed: Seed of new weights, order of contours, crops and of what dead codes become.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints to keep, in addition to the best one.
        save_in_background: Write checkpoints while training goes on, from copies in the CPU's memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard's files, with all that metrics.jsonl holds (needs the extra `plots`).
        wandb: Weights & Biases project to log the same to (needs `pip install wandb`).
        num_workers: Processes that find the pitch before training; 0: the training process.
        device: auto uses cuda if there is a GPU.
    """

    model: PitchModelConfig = field(default_factory=PitchModelConfig)
    max_hours: float = 50.0
    batch_size: int = 16
    crop_frames: int = 208
    num_steps: int = 400_000
    commit_weight: float = 0.02
    codebook_decay: float = 0.99
    dead_below: float = 1.0
    peak_lr: float = 2e-4
    final_lr: float = 1e-5
    warmup_steps: int = 0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.8, 0.99)
    clip_norm: float | None = None
    validation_share: float = 0.1
    validation_clips: int = 200
    precision: Precision = "float32"
    seed: int = 0
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep_last: int = 2
    save_in_background: bool = True
    log_every: int = 10
    tensorboard: str | None = None
    wandb: str | None = None
    num_workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        rules = Rules("train_pitch", self)
        rules.common()
        rules.at_least_one("crop_frames", "validation_clips")
        rules.above_zero("max_hours")
        rules.at_least_zero("commit_weight", "dead_below")
        rules.require("codebook_decay", 0 <= self.codebook_decay < 1, "from 0 to below 1")
        rules.require("validation_share", 0 < self.validation_share < 1, "between 0 and 1")
        multiple = self.model.frames_per_code
        rules.require("crop_frames", self.crop_frames % multiple == 0, f"a multiple of {multiple}, a code's frames")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 1."""
        return rate_of_step(self, step)

    @property
    def changeable(self) -> frozenset[str]:
        """The settings that a resumed run may change."""
        return may_change(self)
