"""How a speech LM is tuned on preferences, and which settings a resumed run may change."""

from __future__ import annotations

from dataclasses import dataclass

from model.device import Device
from model.training.rules import Precision, Rules, may_change, rate_of_step
from model.training.schedule import Schedule

# A resumed run may change these, beside what any may.
OWN_CHANGEABLE = frozenset({"gradient_accumulation", "sharded", "activation_checkpointing", "compile"})


@dataclass(frozen=True)
class TuneConfig:
    """How a speech LM is tuned on preference pairs. Defaults are the Slam paper's, where it gives them.

    Args:
        init: The speech LM to begin with, which also is the reference: a checkpoint's folder, local or s3://. By
            default the best of RUN/checkpoints.
        beta: How far the model may leave the reference: DPO's factor on log-probability ratios. Smaller: farther.
        batch_size: Pairs per step, over all processes.
        gradient_accumulation: Forward passes per step and process; more need less memory and give the same result.
        max_units: Most units in prompt and ending; pairs with more are left out, and counted.
        num_steps: Updates to make.
        peak_lr: Learning rate after warm-up.
        final_lr: Lowest learning rate.
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls: inverse_sqrt, or cosine or linear, which reach final_lr at num_steps.
        weight_decay: AdamW's weight decay, on matrices other than embedding tables.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Clip gradients to this norm over all parameters; null: no clipping.
        precision: float32, or bfloat16 for the forward and backward pass (weights, accumulated gradients and optimizer
            state stay in float32).
        sharded: Divide weights, gradients and optimizer state among the processes (FSDP2).
        activation_checkpointing: Recompute layers in the backward pass instead of keeping their activations.
        compile: Compile each layer with torch.compile; the first steps take minutes.
        seed: Seed of the order of pairs.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Number of newest checkpoints to keep; the best one is kept as well.
        save_in_background: Write checkpoints while training continues, from copies in CPU memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard files with the figures of metrics.jsonl (needs the extra `plots`).
        wandb: Weights & Biases project to log the same figures to (needs `pip install wandb`).
        num_workers: Processes that make batches ahead, per training process; 0 makes them in the training process.
        device: cpu or cuda; auto takes cuda if there is one.
    """

    init: str | None = None
    beta: float = 0.1
    batch_size: int = 64
    gradient_accumulation: int = 1
    max_units: int = 1022
    num_steps: int = 813
    peak_lr: float = 5e-5
    final_lr: float = 0.0
    warmup_steps: int = 100
    schedule: Schedule = "inverse_sqrt"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 0.5
    precision: Precision = "float32"
    sharded: bool = False
    activation_checkpointing: bool = False
    compile: bool = False
    seed: int = 0
    validate_every: int = 100
    checkpoint_every: int = 100
    keep_last: int = 2
    save_in_background: bool = True
    log_every: int = 10
    tensorboard: str | None = None
    wandb: str | None = None
    num_workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        rules = Rules("tune", self)
        rules.common()
        rules.above_zero("beta")
        rules.at_least_one("gradient_accumulation")
        rules.require("max_units", self.max_units >= 2, "at least 2")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, from 1."""
        return rate_of_step(self, step)

    @property
    def changeable(self) -> frozenset[str]:
        """The settings that a resumed run may change."""
        return may_change(self, OWN_CHANGEABLE)
